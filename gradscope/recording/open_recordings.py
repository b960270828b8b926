"""Open recordings of this process: none stays in the place of a new one, all can be closed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from gradscope import checks
from gradscope.types import InputError

#: So many open recordings of one process are not meant, each with a thread and three files.
MANY_OPEN = 8


class Open(Protocol):
    """Recording that is open, as far as this file is concerned.

    Attributes:
        path: of the record.
        owned: a ``with`` block will close it.
    """

    path: Path
    owned: bool

    def close(self) -> None:
        """Close it."""
        ...

    def give_way(self) -> None:
        """Close it, and ignore what its loop still logs: that goes on beside the recording that begins."""
        ...


_OPEN: dict[int, tuple[Open, frozenset[int]]] = {}  # of this process, with the parameters that they watch


def begun(recording: Open, parameters: Iterable[Tensor]) -> None:
    """Note that a recording is open from now until `ended`."""
    _OPEN[id(recording)] = recording, frozenset(id(p) for p in parameters)
    loose = [other.path.name for other, _ in _OPEN.values() if not other.owned]
    if len(loose) == MANY_OPEN:
        names = ", ".join(loose)
        text = f"{MANY_OPEN} recordings of this process are open ({names}), each with a thread and files of its own"
        warnings.warn(
            f"{text}; close each when its training is over, or all: gradscope.close_recordings()",
            stacklevel=checks.users_line(),
        )


def ended(recording: Open) -> None:
    """Note that a recording was closed."""
    _OPEN.pop(id(recording), None)


def make_room(path: Path, parameters: Iterable[Tensor]) -> None:
    """Close what a training that begins again has left open: recordings of the same path, or the same parameters.

    One inside a ``with`` block is meant to be there, and is left alone.

    Args:
        path: of the recording that begins.
        parameters: of the recording that begins.

    Raises:
        InputError: one inside a ``with`` block has the same path.
    """
    mine = {id(p) for p in parameters}
    for other, watched in list(_OPEN.values()):
        same_path = other.path == path
        if other.owned and same_path:
            raise InputError(
                f"{path} is being written by a recording of this process that is inside its with block; leave that "
                f"block first, close it with gradscope.close_recordings({path.name!r}), or give another path"
            )
        if same_path or (not other.owned and not mine.isdisjoint(watched)):
            what = "the same path" if same_path else "the same parameters"
            warnings.warn(
                f"{other.path} was still being recorded, and is closed: a recording of {what} begins",
                stacklevel=checks.users_line(),
            )
            other.give_way()


def close_recordings(path: str | os.PathLike[str] | None = None) -> list[Path]:
    """Close open recordings of this process: without a handle, after an error.

    Args:
        path: as it was given to `gradscope.record`, or the name of the file; without it, all are closed.

    Returns:
        The paths of the closed records.
    """
    wanted = None if path is None else Path(path)
    chosen = [other for other, _ in _OPEN.values() if wanted is None or _is_meant(other.path, wanted)]
    for other in chosen:
        other.close()
    return [other.path for other in chosen]


def _is_meant(path: Path, given: Path) -> bool:
    return path == given.absolute() or path == given.resolve() or given == Path(path.name)


def _leave_to_the_parent() -> None:
    _OPEN.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)
