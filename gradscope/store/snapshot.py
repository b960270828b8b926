"""Record that is being written, or was left by a killed process, as a file object that stays as it was.

A complete redo log beside the file is read over it, in memory. What a writer may still change (HDF5's own structures,
the unfinished chunks) is read once and kept; the full chunks, which no writer touches again, are read when they are
wanted. Nothing is ever written.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import h5py

from gradscope.store import heaps, redo_log, regular
from gradscope.store.bounds import LARGEST_READ
from gradscope.store.redo_log import PAGE
from gradscope.types import InputError

T = TypeVar("T")

#: How often and how long a reader tries to get a view between two commits, in seconds.
PAUSES = (0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Overlay(io.RawIOBase):
    """File with the pages of its log over it.

    Args:
        path: of the record.
        length: pretend that the file is that long (zeros follow).
        log: False where the file is to be read as it is.

    Attributes:
        transaction: what the log holds, None without one.
        held: the bytes that there really are.
        limit: the most that may be read in one piece, None for any.
        real_size: length without the pretended part.
        keeping: keep the pages that are read.
    """

    def __init__(self, path: Path, length: int | None = None, *, log: bool = True) -> None:
        self.transaction = redo_log.pending(path) if log else None
        self._descriptor = os.open(path, os.O_RDONLY)
        self._kept: dict[int, bytes | memoryview] = {}
        self._size = os.fstat(self._descriptor).st_size
        self.held = regular.held_bytes(self._descriptor)
        self.limit: int | None = None
        if self.transaction is not None:
            self._size = self.transaction.size
            self._kept.update({i: memoryview(page) for i, page in self.transaction.pages.items()})
            self.held += PAGE * len(self._kept)
        self.real_size = self._size
        self._size = max(self._size, length or 0)
        self._position = 0
        self.keeping = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, and return it."""
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer from the position on, with damaged heaps hidden.

        Args:
            buffer: to be filled.

        Returns:
            The bytes read.

        Raises:
            ValueError: that is more than `limit` in one piece.
        """
        view = memoryview(buffer).cast("B")
        if self.limit is not None and len(view) > self.limit:
            raise ValueError(f"{len(view)} bytes in one piece, expected at most {self.limit}")
        wanted = max(0, min(len(view), self._size - self._position))
        self._fill(view[:wanted], self._position)
        heaps.hide_damaged(view[:wanted], self._position, self.at)
        self._position += wanted
        return wanted

    def at(self, offset: int, size: int) -> bytes:
        """Read bytes from a place on, from whichever thread; fewer where the file ends.

        Args:
            offset: of the first.
            size: how many.

        Returns:
            The bytes.

        Raises:
            ValueError: that is more than the file holds.
        """
        if size > max(self.held, PAGE):
            raise ValueError(f"a piece of {size} bytes in a file of {self.held}")
        found = bytearray(max(0, min(size, self._size - offset)))
        self._fill(memoryview(found), offset)
        return bytes(found)

    def _fill(self, view: memoryview, position: int) -> None:
        first, last = position // PAGE, (position + len(view) - 1) // PAGE
        if self.keeping or (self._kept and any(i in self._kept for i in range(first, last + 1))):
            for index in range(first, last + 1):
                start, stop = max(index * PAGE, position), min((index + 1) * PAGE, position + len(view))
                view[start - position : stop - position] = self._page(index)[start - index * PAGE : stop - index * PAGE]
        else:
            read = os.preadv(self._descriptor, [view], position) if view else 0
            view[read:] = bytes(len(view) - read)

    def _page(self, index: int) -> bytes | memoryview:
        page = self._kept.get(index)
        if page is None:
            page = os.pread(self._descriptor, PAGE, index * PAGE).ljust(PAGE, b"\0")
            if self.keeping:
                self._kept[index] = page
        return page

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole content, in pieces."""
        self.seek(0)
        while piece := self.read(1 << 20):
            yield piece

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse copies: they would close the descriptor of the others, and another process would see another state."""
        raise TypeError("a view of a record that is being written stays in the process that opened it")

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def snapshot(path: Path, look: Callable[[h5py.File, Overlay], T]) -> tuple[Overlay, T]:
    """Take a view of the record as it was at one commit.

    Args:
        path: of the record.
        look: comes first, and may refuse the record.

    Returns:
        The view, and what ``look`` found in it.

    Raises:
        InputError: the record is written to faster than it can be read.
    """  # noqa: DOC501 - what HDF5 or ``look`` raise is raised again
    for pause in PAUSES:
        time.sleep(pause)
        view = Overlay(path)
        try:
            found = looked_at(view, look)
            _keep_what_may_change(view)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError):
            if _unchanged(view, path):  # so it is the file, and no writer at work on it
                view.close()
                raise
        else:
            if _unchanged(view, path):
                return view, found
        view.close()
    raise InputError(f"{path} is written to faster than it can be read; try again")


def looked_at(view: Overlay, look: Callable[[h5py.File, Overlay], T]) -> T:
    """Return what ``look`` finds, while nothing large can be read in one piece."""
    view.limit = LARGEST_READ
    with h5py.File(view, "r") as file:
        found = look(file, view)
    view.limit = None
    view.seek(0)
    return found


def _unchanged(view: Overlay, path: Path) -> bool:
    now = redo_log.pending(path)
    if view.transaction is None or now is None:
        return view.transaction is now
    return view.transaction.number == now.number and view.transaction.size == now.size


def _keep_what_may_change(view: Overlay) -> None:
    view.keeping = True
    with h5py.File(view, "r") as file:
        dict(file.attrs)
        for group in (file, *(item for item in file.values() if isinstance(item, h5py.Group))):
            for dataset in group.values():
                if isinstance(dataset, h5py.Dataset):
                    dict(dataset.attrs)
                    _keep(view, dataset, small=group is not file)
    view.keeping = False
    view.seek(0)


def _keep(view: Overlay, dataset: h5py.Dataset, small: bool) -> None:
    if small or not dataset.chunks:
        if dataset.nbytes <= 1 << 26:
            dataset[...]
        return
    rows = len(dataset)
    unfinished: list[Any] = []

    def look(chunk: Any) -> None:  # visits the whole index of chunks, which is thereby kept
        if chunk.chunk_offset[0] + dataset.chunks[0] > rows:
            unfinished.append(chunk)

    view.keeping = True
    dataset.id.chunk_iter(look)
    for chunk in unfinished:
        if chunk.size <= 1 << 26:
            view.seek(chunk.byte_offset)
            view.read(chunk.size)
