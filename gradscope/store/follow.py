"""Follow a record while it is written: blocks of new rows as they are published, in bounded memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gradscope import checks
from gradscope.store import redo_log, schema
from gradscope.store.interrupts import held_back
from gradscope.store.record import Record
from gradscope.store.writer_lock import writer_of
from gradscope.types import InputError

POLL_SECONDS = 0.25
BLOCK_ROWS = 4096
#: How long a file may be there without a writer and without being a record, before that is an error.
PATIENCE = 5.0


def follow(
    path: str | os.PathLike[str],
    names: tuple[str, ...] | None = None,
    *,
    poll_seconds: float = POLL_SECONDS,
    block_rows: int = BLOCK_ROWS,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the rows of a record in blocks, as they are published.

    Waits for a file that is not there yet, and ends when the run does, or when its writer is gone. Where a run was
    resumed and rows were dropped, it goes on with the new ones.

    Args:
        path: of the record.
        names: variables; without them all along ``step``.
        poll_seconds: between two looks at the file.
        block_rows: rows of a block at most.
        pause: waits between two looks; what it raises ends the following.

    Yields:
        Arrays by variable, ``step`` among them.

    Raises:
        InputError: the file is no record, or not on this machine.
    """
    checks.on_this_machine(path, "a record is followed as it grows")
    path = Path(path)
    done, seen = 0, None
    without_writer = time.monotonic()
    while True:
        state = _state(path)
        if state is None or writer_of(path) is not None:
            without_writer = time.monotonic()
        if state is None or state == seen:
            if state is not None and time.monotonic() - without_writer > PATIENCE:
                return
            pause(poll_seconds)
            continue
        try:
            with held_back():
                record = Record(path)
        except InputError:
            # On a loaded machine the attempt alone can have taken that long.
            if writer_of(path) is None and time.monotonic() - without_writer > PATIENCE:
                raise
            pause(poll_seconds)
            continue
        with record:
            done = min(done, record.rows)
            wanted = [n for n, dims in record.dims.items() if dims[:1] == (schema.STEP,)]
            wanted = [schema.STEP, *(n for n in wanted if names is None or n in names)]
            while done < record.rows:
                with held_back():  # HDF5 would make another error of Ctrl-C, or none
                    block = record.rows_of(wanted, slice(done, min(record.rows, done + block_rows)))
                yield block
                done = min(record.rows, done + block_rows)
            if record.status != "running":
                return
        seen = state


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what changes with every commit; None while there is no file."""
    found: list[int] = []
    for part in (path, redo_log.beside(path)):
        try:
            status = part.stat()
        except OSError:
            found.append(0)
        else:
            found += [status.st_ino, status.st_size, status.st_mtime_ns]
    return tuple(found) if path.exists() else None
