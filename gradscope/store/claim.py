"""May a record be written at this path? Asked before anything is touched."""

from __future__ import annotations

from pathlib import Path

import h5py

from gradscope import checks
from gradscope.store import redo_log
from gradscope.types import InputError, RecordExistsError, RecordNotFoundError

MODES = ("create", "overwrite", "append")
LATER_ROWS = ("drop", "keep")


def claim(path: Path, mode: str) -> None:
    """Refuse a path that cannot become a record, with an `InputError`."""
    try:
        _claim(path, mode)
    except InputError:
        raise
    except OSError as error:  # of the file system, or of a process without file descriptors
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).splitlines()[0]}") from None


def _claim(path: Path, mode: str) -> None:
    checks.one_of(mode, MODES, "mode")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the path of a file to write")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    _refuse_a_log_of_others(path)
    if mode == "append":
        if not path.exists():
            raise RecordNotFoundError(f"there is no record {path} to go on with; give its path, or mode='create'")
        if not is_record(path):
            raise InputError(f"{path} is not a record, so mode='append' cannot go on with it")
    elif path.exists() and not _never_begun(path):
        if mode == "create":
            raise RecordExistsError(
                f"{path} exists already; give another path, mode='overwrite' to replace it, or mode='append' to go on"
            )
        if not is_record(path):
            raise InputError(f"{path} is not a record, and mode='overwrite' replaces records only; delete it first")


def is_record(path: Path) -> bool:
    """As far as can be told: one that is damaged is ours to replace."""
    if redo_log.pending(path) is not None:
        return True
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "gradscope_version" in file.attrs
    except (OSError, RuntimeError):
        return True


def _never_begun(path: Path) -> bool:
    """What a process leaves that was killed before the first commit: no bytes, and no log."""
    return path.is_file() and path.stat().st_size == 0 and redo_log.pending(path) is None


def _refuse_a_log_of_others(path: Path) -> None:
    """A shell may have been told to put a program's output just where the log of its record goes."""
    log = redo_log.beside(path)
    if redo_log.ours(log) or (not log.stat().st_size and path.exists() and not h5py.is_hdf5(path)):
        return
    raise InputError(
        f"{log} is no log of gradscope, which keeps one under that name beside {path.name}; move it away, or give "
        "another path"
    )
