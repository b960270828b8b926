"""Read records from object stores and web servers, and copy them there: wherever fsspec reaches."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from gradscope.extras import missing
from gradscope.store import redo_log
from gradscope.types import InputError, RecordNotFoundError


@cache
def fetched(url: str) -> Path:
    """Copy a record, and a log that lies beside it, into a temporary folder that goes with the process.

    Args:
        url: of the record. It is copied once a process: one that is still being written stays as it was.

    Returns:
        The path of the copy, under the record's own name.

    Raises:
        RecordNotFoundError: there is nothing.
        InputError: fsspec, or what it needs for this kind of URL, is not installed, or the store refuses.
    """
    try:
        import fsspec
    except ModuleNotFoundError:
        raise InputError(missing(f"reading {url}", "fsspec")) from None
    try:
        files, place = fsspec.core.url_to_fs(url)
        copy = Path(tempfile.mkdtemp(dir=_folder()), Path(place).name)
        files.get_file(place, str(copy))
        log = redo_log.beside(copy).name
        if files.exists(beside := f"{place.rpartition('/')[0]}/{log}"):
            files.get_file(beside, str(copy.with_name(log)))
    except FileNotFoundError:
        raise RecordNotFoundError(f"there is no file {url}; give the address of a record") from None
    except Exception as error:  # each kind of store has errors of its own
        raise InputError(f"cannot read {url}: {_line(error)}") from None
    return copy


def put(path: Path, to: str) -> str:
    """Copy a finished record to an object store, or anywhere else that fsspec knows.

    Args:
        path: of the record.
        to: a URL or a path; one that ends in ``/`` is a folder, in which the copy has the record's name.

    Returns:
        Where the copy is.

    Raises:
        InputError: fsspec, or what it needs for this kind of URL, is not installed, or the store refuses.
    """
    target = f"{to}{path.name}" if to.endswith("/") else to
    try:
        import fsspec
    except ModuleNotFoundError:
        raise InputError(missing(f"copying a record to {target}", "fsspec")) from None
    try:
        files, place = fsspec.core.url_to_fs(target)
        files.makedirs(place.rpartition("/")[0] or "/", exist_ok=True)
        files.put_file(str(path), place)
    except Exception as error:  # each kind of store has errors of its own
        raise InputError(f"cannot copy {path} to {target}: {_line(error)}") from None
    return target


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


@cache
def _folder() -> Path:
    """Make the folder of the copies, which the process that made it removes, and no child that it forks."""
    folder, mine = Path(tempfile.mkdtemp(prefix="gradscope-")), os.getpid()

    def remove() -> None:
        if os.getpid() == mine:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
