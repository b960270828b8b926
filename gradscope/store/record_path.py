"""Check whether a record may be written at a path, before anything is touched."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import date
from itertools import count
from pathlib import Path

import h5py

from gradscope import checks
from gradscope.store import redo_log
from gradscope.types import InputError, RecordExistsError, RecordNotFoundError

MODES = ("create", "overwrite", "append")
LATER_ROWS = ("drop", "keep")


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder is meant, where the run gets its name: an existing one, or a path that ends in /."""
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or Path(text).is_dir()


def free_name(folder: Path) -> Path:
    """Return the first name of today that is free in a folder: ``2026-11-30-1.h5``, ``2026-11-30-2.h5`` and so on."""
    today = date.today().isoformat()
    return next(path for n in count(1) if not (path := folder / f"{today}-{n}.h5").exists())


def reserve_name(folder: Path) -> Path:
    """Reserve a `free_name` by an empty file, so that no other process takes it; a missing folder is made.

    Args:
        folder: for the record.

    Returns:
        The path.

    Raises:
        InputError: the folder cannot be written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = free_name(folder)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                return path
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {(error.strerror or str(error)).splitlines()[0]}") from None


def release_name(path: Path) -> None:
    """Remove the empty file that `reserve_name` left, where nothing came of it."""
    if _never_begun(path):
        path.unlink()


def prepare_path(path: Path, mode: str) -> None:
    """Check that a path can become a record, and make the folder of a new one.

    Args:
        path: of the record.
        mode: ``create``, ``overwrite`` or ``append``.

    Raises:
        InputError: it cannot.
    """
    try:
        _prepare(path, mode)
    except InputError:
        raise
    except OSError as error:  # of the file system, or of a process without file descriptors
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).splitlines()[0]}") from None


def _prepare(path: Path, mode: str) -> None:
    checks.one_of(mode, MODES, "mode")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the path of a file to write")
    if mode == "append" and not path.exists():
        raise RecordNotFoundError(f"there is no record {path} to go on with; give its path, or mode='create'")
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_a_log_of_others(path)
    if mode == "append":
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
    """Return whether a file is a record, as far as can be told: one that is damaged is ours to replace."""
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
    """Return whether a file is what a process leaves that was killed before the first commit: no bytes, and no log."""
    return path.is_file() and path.stat().st_size == 0 and redo_log.pending(path) is None


def _refuse_a_log_of_others(path: Path) -> None:
    """Refuse a file in the place of the log that is none: a shell may have been told to put its output there."""
    log = redo_log.beside(path)
    if redo_log.ours(log) or (not log.stat().st_size and path.exists() and not h5py.is_hdf5(path)):
        return
    raise InputError(
        f"{log} is no log of gradscope, which keeps one under that name beside {path.name}; move it away, or give "
        "another path"
    )
