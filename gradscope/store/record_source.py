"""Open the bytes of a record: what stands there, what HDF5 may be shown of it, and the one line where it may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from gradscope import checks
from gradscope.store import redo_log, remote, schema
from gradscope.store.bounds import attribute
from gradscope.store.regular import damaged
from gradscope.store.snapshot import Overlay, looked_at, snapshot
from gradscope.store.validation import refuse_hostile
from gradscope.types import InputError, RecordNotFoundError

NEEDED_ATTRIBUTES = ("schema_version", "gradscope_version", "status", "config", "capture", "penalty", "rows")


def check(path: str | os.PathLike[str]) -> Path:
    """Check that a path leads to a file that may be a record.

    Args:
        path: of the record, or a URL that fsspec knows (``s3://…``).

    Returns:
        The path; of what lies elsewhere, that of a copy.

    Raises:
        RecordNotFoundError: there is no such file.
        InputError: what is there cannot be a record, or cannot be read.
    """
    path = Path(path) if (url := checks.url_of(path)) is None else remote.fetched(url)
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a record, such as {path / 'run.h5'}")
    if not path.exists():
        raise RecordNotFoundError(f"there is no file {path}; give the path of a record that gradscope wrote")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a record that gradscope wrote")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if redo_log.pending(path) is not None:
        return path
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes); expected a record that gradscope wrote")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an HDF5 file; expected a record that gradscope wrote")
    return path


def source_of(path: Path, take: Any = None) -> tuple[Path | Overlay, int]:
    """Find what to read: the path where nobody writes, a snapshot where a log says otherwise.

    Args:
        path: of the record.
        take: is shown the open file once, when it has been found to be a record.

    Returns:
        The path or the snapshot, and the rows published.
    """

    def look(file: h5py.File, view: Overlay) -> int:
        rows = _identify(path, file, view)
        if take is not None:
            take(file)
        return rows

    if redo_log.beside(path).exists():
        return snapshot(path, look)
    with Overlay(path, log=False) as view:
        return path, looked_at(view, look)


@contextmanager
def opened(source: Path | Overlay) -> Iterator[Overlay]:
    """Open the bytes of a record that nobody writes, or of a view that stays open."""
    if isinstance(source, Overlay):
        yield source
        return
    with Overlay(source, log=False) as view:
        yield view


def told(path: Path, error: BaseException) -> InputError:
    """Make the error about a file that cannot be read."""
    return error if isinstance(error, InputError) else damaged(path, error)


def _identify(path: Path, file: h5py.File, view: Overlay) -> int:
    """Return the rows published; refuse files that are no record, of a later gradscope, or hostile."""
    missing = [name for name in NEEDED_ATTRIBUTES if name not in file.attrs]
    if missing:
        raise InputError(
            f"{path} is HDF5, but not a gradscope record (it has no attribute {missing[0]!r}); "
            f"expected a file that gradscope.record wrote"
        )
    version = int(attribute(file, "schema_version"))
    if version > schema.SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, this gradscope reads up to {schema.SCHEMA_VERSION}; "
            f"install gradscope {attribute(file, 'gradscope_version')} or later"
        )
    refuse_hostile(path, file, view)
    return min(int(file.attrs["rows"]), len(file[schema.STEP]))
