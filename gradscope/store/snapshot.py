"""A record that is being written, or was left by a killed process, as a file object that stays as it was.

A complete redo log beside the file is read over it, in memory. What a writer may still change (HDF5's own
structures, the unfinished chunks) is read once and kept; the full chunks, which no writer touches again, are
read when they are wanted. Nothing is ever written.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from gradscope.store import redo_log
from gradscope.store.redo_log import PAGE
from gradscope.types import InputError

#: How often and how long a reader tries to get a view between two commits, in seconds.
PAUSES = (0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Overlay(io.RawIOBase):
    """The file with the pages of its log over it. ``length``: pretend that the file is that long (zeros)."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.transaction = redo_log.read(redo_log.beside(path))
        self._descriptor = os.open(path, os.O_RDONLY)
        self._kept: dict[int, bytes] = {}
        self._size = os.fstat(self._descriptor).st_size
        if self.transaction is not None:
            self._size = self.transaction.size
            self._kept.update({i: bytes(page) for i, page in self.transaction.pages.items()})
        self.real_size = self._size
        self._size = max(self._size, length or 0)
        self._position = 0
        self.keeping = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        first, last = self._position // PAGE, (self._position + wanted - 1) // PAGE
        if self.keeping or (self._kept and any(i in self._kept for i in range(first, last + 1))):
            for index in range(first, last + 1):
                start, stop = max(index * PAGE, self._position), min((index + 1) * PAGE, self._position + wanted)
                page = self._page(index)[start - index * PAGE : stop - index * PAGE]
                view[start - self._position : stop - self._position] = page
        else:
            read = os.preadv(self._descriptor, [view[:wanted]], self._position) if wanted else 0
            view[read:wanted] = bytes(wanted - read)
        self._position += wanted
        return wanted

    def _page(self, index: int) -> bytes:
        page = self._kept.get(index)
        if page is None:
            page = os.pread(self._descriptor, PAGE, index * PAGE).ljust(PAGE, b"\0")
            if self.keeping:
                self._kept[index] = page
        return page

    def pieces(self) -> Iterator[bytes]:
        """The whole content, in pieces."""
        self.seek(0)
        while piece := self.read(1 << 20):
            yield piece

    def __reduce_ex__(self, protocol: Any) -> Any:
        """No copies: they would close the descriptor of the others, and another process would see another commit."""
        raise TypeError("a view of a record that is being written stays in the process that opened it")

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def snapshot(path: Path) -> Overlay:
    """A view of the record as it was at one commit. Raises `OSError` for what HDF5 cannot read."""
    for pause in PAUSES:
        time.sleep(pause)
        view = Overlay(path)
        try:
            _keep_what_may_change(view)
        except (OSError, RuntimeError, KeyError, ValueError):
            if _unchanged(view, path):  # so it is the file, and no writer at work on it
                view.close()
                raise
        else:
            if _unchanged(view, path):
                return view
        view.close()
    raise InputError(f"{path} is written to faster than it can be read; try again")


def _unchanged(view: Overlay, path: Path) -> bool:
    now = redo_log.read(redo_log.beside(path))
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
