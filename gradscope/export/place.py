"""Write an export under a temporary name until it is whole, and over nothing that somebody may miss."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradscope.types import InputError


@contextmanager
def whole_or_nothing(path: Path, source: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary path; what is written to it and beside it is moved to ``path`` at the end.

    A writer may put companions beside its output, in the same temporary folder; each keeps its name. If the block
    raises, nothing is left.

    Yields:
        The path to write to.

    Raises:
        InputError: something is in the way, before or after, or the disk refuses.
    """  # noqa: DOC501 - the OSError that is raised again is an InputError, too
    check(path, source, force=force)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise InputError(f"cannot write to the folder {path.parent}: {error.strerror}; give another with -o") from None
    try:
        yield folder / path.name
        made = sorted(folder.iterdir(), key=lambda item: item.name == path.name)  # the companions, then the export
        for item in made:
            check(path.parent / item.name, source, force=force)
        for item in made:
            _move(item, path.parent / item.name, aside=folder / f"{item.name}.before")
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def companion(path: Path, name: str) -> Path:
    """Return the path of a further table beside an export: ``run.csv`` and ``run.events.csv``."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def check(path: Path, source: Path, *, force: bool) -> None:
    """Raise `InputError` if nothing may be written to ``path``."""
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if not os.path.lexists(path):
        return
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"{path} is the record itself; give another path with -o")
    if not force:
        raise InputError(f"{path} exists; give another path with -o, or --force to replace it")
    if path.is_dir() and not _is_export(path):
        raise InputError(f"{path} is a folder that no export wrote, so --force does not replace it; give another path")


def _is_export(folder: Path) -> bool:
    names = {item.name for item in folder.iterdir()}
    zarr = {"zarr.json", ".zgroup"} & names
    return bool(zarr) or all(".tfevents." in item.name for item in folder.rglob("*") if not item.is_dir())


def _move(item: Path, target: Path, aside: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        target.rename(aside)  # a folder cannot be renamed over another
    item.replace(target)
