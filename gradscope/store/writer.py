"""Write one record: plain HDF5 that xarray opens as it is, one transaction a flush.

Rows, events, epochs and attributes gather in memory, from whichever thread, and are published together: when there are
``flush_rows`` rows, or in time for the oldest to be durable after ``flush_seconds``. A disk that takes nothing never
stops the training: `Writer.problem` says what is wrong, and rows wait in bounded memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope import checks
from gradscope.store import redo_log, schema
from gradscope.store.in_memory import InMemoryRecord
from gradscope.store.interrupts import held_back
from gradscope.store.layout import Axes
from gradscope.store.pending import Pending
from gradscope.store.record_path import LATER_ROWS, prepare_path
from gradscope.store.storage import DEFAULT, Storage
from gradscope.store.transactional import TransactionalFile
from gradscope.store.writer_lock import WriterLock
from gradscope.types import InputError

#: A commit begins this long before its rows have to be durable: the time between two ticks, and its own.
AHEAD = 0.45


class Writer:
    """Writer of one open record.

    Args:
        path: the file.
        parameters, modules, groups, bins, units: the labels along the dimensions.
        static: variables that do not grow, one entry a parameter.
        attributes: root attributes; a dictionary is kept as JSON.
        mode: ``create``, ``overwrite`` or ``append``.
        resume_step: with ``append``, the step that comes next.
        later_rows: with ``append``, what becomes of rows from there on: ``drop`` or ``keep``.
        storage: when rows are flushed, and how they are filtered.

    Attributes:
        path: the file.
        problem: what last went wrong with the disk, in one line; None: nothing has.

    Raises:
        InputError: the path cannot be written, is being written, or holds another run.
    """

    def __init__(
        self,
        path: Path,
        *,
        parameters: Sequence[str],
        modules: Sequence[str],
        groups: int,
        static: Mapping[str, NDArray[Any]],
        attributes: Mapping[str, Any],
        mode: str = "create",
        resume_step: int | None = None,
        later_rows: str = "drop",
        storage: Storage = DEFAULT,
        bins: NDArray[Any] | None = None,
        units: Sequence[str] | None = None,
    ) -> None:
        prepare_path(path, mode)
        checks.one_of(later_rows, LATER_ROWS, "later_rows")
        self.path = path
        self.problem: str | None = None
        self._flush_rows, self._flush_seconds = storage.flush_rows, storage.flush_seconds
        self._process = os.getpid()
        self._closed = False
        self._broken = False
        self._waiting = False  # for a disk that takes nothing
        self._pending = Pending()
        self._short = threading.Lock()  # around `_pending`: never held for long
        self._long = threading.RLock()  # around the file
        axes = Axes(parameters, modules, groups, bins, units)
        real = Path(os.path.realpath(path))  # one file, whatever link leads to it and wherever the process goes
        self._lock = WriterLock(path)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            try:
                self._file = _opened(real, mode)
                undo.callback(self._file.release)
                self._in_memory = InMemoryRecord(self._file, create=mode != "append", storage=storage)
                undo.callback(self._in_memory.abandon)
                if mode == "append":
                    self._resume(axes, static, attributes, resume_step, later_rows)
                else:
                    undo.callback(real.unlink, missing_ok=True)
                    self._in_memory.lay_out(axes, static, attributes)
                self._file.commit()
            except OSError as error:
                raise InputError(f"cannot write {path}: {_reason(error)}") from None
            undo.pop_all()

    @property
    def rows(self) -> int:
        """Rows that were published."""
        return self._in_memory.rows

    def _resume(
        self,
        axes: Axes,
        static: Mapping[str, NDArray[Any]],
        attributes: Mapping[str, Any],
        step: int | None,
        later_rows: str,
    ) -> None:
        other = self._in_memory.differences(axes, static, attributes.get("config"))
        if other is not None:
            raise InputError(f"{self.path} is of another run, {other}; give another path, or mode='overwrite'")
        kept, dropped = self._in_memory.continue_at(step, later_rows == "keep")
        text = f"resumed at step {step}: {kept} rows kept, {dropped} later rows dropped"
        pending = Pending(events=[(-1 if step is None else step, "resumed", text)])
        pending.attributes.update(attributes)
        pending.static.update(static)
        self._in_memory.write(pending)

    # -- taking -----------------------------------------------------------------------------------

    def append(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Take rows.

        Args:
            block: arrays by variable, of one first length.

        Raises:
            InputError: a shape does not fit.
        """  # noqa: DOC502 - raised by what it calls
        block = {name: np.asarray(values) for name, values in block.items()}
        for name, values in block.items():
            self.check(name, values, len(block[schema.STEP]))
        with self._gathering() as pending:
            pending.add_block(block)
            full = pending.rows >= self._flush_rows and not self._waiting
        if full:
            self.flush()
        else:
            self.tick()

    def check(self, name: str, values: NDArray[Any], rows: int) -> None:
        """Check that a variable of this name can take an array; else raise `InputError`."""
        self._in_memory.check(name, values, rows)

    def event(self, step: int, kind: str, text: str) -> None:
        """Add one event."""
        with self._gathering() as pending:
            pending.events.append((step, kind, text))

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take metrics of an epoch; a second call for the same epoch adds to the first."""
        with self._gathering() as pending:
            pending.epochs.setdefault(epoch, {}).update(metrics)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set a root attribute; a dictionary is kept as JSON."""
        with self._gathering() as pending:
            pending.attributes[name] = dict(value) if isinstance(value, dict) else value

    def set_static(self, name: str, values: NDArray[Any]) -> None:
        """Replace a (parameter) variable, known better now than at the start."""
        with self._gathering() as pending:
            pending.static[name] = np.array(values)

    @contextlib.contextmanager
    def _gathering(self) -> Iterator[Pending]:
        if os.getpid() != self._process:  # a fork: the lock may have been held when it was made
            yield Pending()
            return
        with self._short:
            if self._pending.since is None:
                self._pending.since = time.monotonic()
            yield self._pending

    # -- publishing -------------------------------------------------------------------------------

    def tick(self) -> None:
        """Flush if something has waited long enough. For a thread to call every quarter of a second."""
        self._lock.beat()
        since = self._pending.since
        if since is not None and time.monotonic() - since >= max(0.0, self._flush_seconds - AHEAD):
            self.flush()

    def flush(self) -> None:
        """Publish everything that was given, in one transaction. Trouble with the disk goes to `problem`."""
        if self._closed or self._broken or os.getpid() != self._process:
            return
        with self._long, held_back():
            self._publish()

    def _publish(self) -> bool:
        """Write what is pending and commit it; return whether everything that was given is durable."""
        try:
            self._find_file()
            self._file.commit()  # what could not be written the last time
            with self._short:
                pending, self._pending = self._pending, Pending()
            if pending.since is not None:
                self._in_memory.write(pending)
                self._file.commit()
        except OSError as error:
            self._put_off(f"{self.path} cannot be written ({_reason(error)}): rows wait in memory, training goes on")
            return False
        except Exception as error:  # a mistake of ours: what is in the file stays good, nothing more is written
            self._broken = True
            self.problem = f"{self.path} is no longer written: {type(error).__name__}: {error}"
            return False
        self._waiting = False
        return True

    def _put_off(self, problem: str) -> None:
        self.problem, self._waiting = problem, True
        with self._short:  # try again when a row could next be due, not at once
            self._pending.since = time.monotonic()

    def _find_file(self) -> None:
        """Restore the file if it was deleted or replaced under its writer."""
        if not self._file.lost():
            return
        self._file.restore()
        self.problem = f"{self.path} was deleted while it was written; it has been written anew, nothing is lost"

    # -- the end ----------------------------------------------------------------------------------

    def close(self, status: str) -> None:
        """Write the rest and the final status, and close. Trouble with the disk goes to `problem`."""
        if self._closed or os.getpid() != self._process:
            self._closed = True
            return
        with self._long, held_back():
            self._closed = True
            try:
                if not self._broken and self._publish():
                    self._in_memory.finish(status)
                    self._file.commit()
                    self._file.close_for_good()
            except OSError as error:
                self.problem = f"{self.path} could not be finished ({_reason(error)}); what was published is safe"
            finally:
                with contextlib.suppress(Exception):
                    self._in_memory.abandon()
                self._file.release()
                self._lock.release()


def _opened(path: Path, mode: str) -> TransactionalFile:
    if mode == "append":
        redo_log.redo(path)
        return TransactionalFile(path, create=False)
    redo_log.put_aside(path)
    path.unlink(missing_ok=True)
    return TransactionalFile(path, create=True)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).splitlines()[0]
