"""File object for HDF5 in which a commit happens whole or not at all.

HDF5 writes into pages in memory; `commit` makes them durable together through the redo log. Between two commits
nothing on disk changes, so whatever happens to the process or the machine leaves the last commit. An error of the disk
is raised by `commit`, never inside HDF5, which loses such errors.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import weakref
from pathlib import Path
from typing import Any

from gradscope.store import redo_log, regular
from gradscope.store.redo_log import PAGE, Stamp, Transaction

_OPEN: weakref.WeakSet[TransactionalFile] = weakref.WeakSet()


class TransactionalFile(io.RawIOBase):
    """File for ``h5py.File(…)``.

    Args:
        path: of the file.
        create: a new file; else one whose log has been applied (`redo`).

    Attributes:
        path: of the file.
        stamp_at: where the stamp is kept that says which log belongs to it; None: an older record, without one.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self._log_path = redo_log.beside(path)
        self._descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0), 0o666)
        self._log: int | None = None
        self._size = self._length = os.fstat(self._descriptor).st_size  # as HDF5 sees it, and on disk
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self._number = 0
        #: Where the stamp is kept that says which log belongs to this file; None: an older record, without one.
        self.stamp_at: int | None = None
        self._stamp = bytes(redo_log.STAMP_BYTES)
        self._unapplied: Transaction | None = None  # in the log, durable, and perhaps half applied
        self._unsynced = False
        self._foreign = False
        _OPEN.add(self)

    # -- what HDF5 calls --------------------------------------------------------------------------

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
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
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer from the position on, and return the bytes read."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        done = 0
        while done < wanted:
            index, offset = divmod(self._position + done, PAGE)
            piece = self._page(index)[offset : offset + wanted - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        self._position += done
        return done

    def write(self, data: Any) -> int:
        """Write into pages in memory from the position on, and return the bytes written."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            index, offset = divmod(self._position + done, PAGE)
            piece = view[done : done + PAGE - offset]
            if index not in self._pages:
                # A page that is written whole need not be read first.
                self._pages[index] = bytearray(PAGE) if len(piece) == PAGE else bytearray(self._page(index))
            self._pages[index][offset : offset + len(piece)] = piece
            done += len(piece)
        self._position += done
        self._size = max(self._size, self._position)
        return done

    def truncate(self, size: int | None = None) -> int:
        """Set the size, and return it."""
        self._size = self._position if size is None else size
        for index in [i for i in self._pages if i * PAGE >= self._size]:
            del self._pages[index]
        return self._size

    def flush(self) -> None:
        """Do nothing: HDF5 calls it whenever it has written its caches; what counts is `commit`."""

    def _page(self, index: int) -> bytes | bytearray:
        if index in self._pages:
            return self._pages[index]
        stored = b"" if self._foreign else os.pread(self._descriptor, PAGE, index * PAGE)
        return stored.ljust(PAGE, b"\0")

    # -- transactions -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything written so far durable, together. After an `OSError`, calling it again goes on from there."""
        if self._foreign:
            return
        self.finish()
        pages = {i: page for i, page in self._pages.items() if self._differs(i, page)}
        if not pages and self._size == self._length:
            self._pages = {}
            return
        stamp = self._next_stamp(pages)
        if self._size > self._length:  # so that applying cannot run out of space
            os.posix_fallocate(self._descriptor, self._length, self._size - self._length)
        transaction = Transaction(self._number + 1, self._size, pages, stamp)
        redo_log.write(self._open_log(), transaction)
        self._number += 1
        self._stamp = stamp.after if stamp is not None else self._stamp
        self._pages, self._length, self._unapplied = {}, self._size, transaction
        self._apply()

    def stamped(self, offset: int, known: bool) -> None:
        """Note a place for the stamp; ``known``: it holds that of the latest transaction already."""
        self.stamp_at = offset
        if known:
            self._stamp = os.pread(self._descriptor, redo_log.STAMP_BYTES, offset)

    def _next_stamp(self, pages: dict[int, bytearray]) -> Stamp | None:
        """Make a new stamp, written into the pages of the transaction that it stands for."""
        if self.stamp_at is None:
            return None
        stamp = Stamp(self.stamp_at, self._stamp, os.urandom(redo_log.STAMP_BYTES))
        for place, byte in enumerate(stamp.after, self.stamp_at):
            index, offset = divmod(place, PAGE)
            if index not in pages:
                pages[index] = self._pages.setdefault(index, bytearray(self._page(index)))
            pages[index][offset] = byte
        return stamp

    def finish(self) -> None:
        """Bring what the log holds into the file, durably: the log may be written over then."""
        if self._unapplied is not None:
            self._apply()
        if self._unsynced:
            os.fdatasync(self._descriptor)
            self._unsynced = False

    def _apply(self) -> None:
        assert self._unapplied is not None
        self._unsynced = True
        try:
            redo_log.apply(self._descriptor, self._unapplied)
        except OSError:
            # The transaction is safe in the log; until it has been applied, its pages are read from here.
            for index, page in self._unapplied.pages.items():
                self._pages.setdefault(index, bytearray(page))
            raise
        self._unapplied = None

    def _differs(self, index: int, page: bytearray) -> bool:
        return os.pread(self._descriptor, PAGE, index * PAGE).ljust(PAGE, b"\0") != page

    def _open_log(self) -> int:
        if self._log is None:
            if not redo_log.ours(self._log_path):
                raise FileExistsError(errno.EEXIST, f"{self._log_path} is a file of somebody else's")
            self._log = regular.open_regular(self._log_path, os.O_RDWR | os.O_CREAT)
            synchronise(self.path.parent)
        return self._log

    # -- the file itself --------------------------------------------------------------------------

    def lost(self) -> bool:
        """Return whether the path no longer leads to the file that is open here."""
        if self._foreign:
            return False
        here = os.fstat(self._descriptor)
        try:
            there = self.path.stat()
        except OSError:
            return True
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def restore(self) -> None:
        """Write what the open descriptor of a deleted file still holds to the path again.

        Raises:
            FileExistsError: another file has taken its place.
            OSError: it cannot be written.
        """  # noqa: DOC502 - raised by what it calls
        self.finish()
        new = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            position = 0
            while piece := os.pread(self._descriptor, 1 << 20, position):
                redo_log.write_all(new, [piece], position)
                position += len(piece)
            os.fsync(new)
        except OSError:
            os.close(new)
            self.path.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor = new
        self._forget_log()
        synchronise(self.path.parent)

    def close_for_good(self) -> None:
        """Bring everything into place after the last commit, and remove the log; after an `OSError`, call it again."""
        if self._foreign:
            return
        self.finish()
        if self._log is not None:
            self._forget_log()
            self._log_path.unlink(missing_ok=True)

    def _forget_log(self) -> None:
        """Close the log; the next commit opens it again, or makes it anew."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def release(self) -> None:
        """Close the descriptors; nothing is written any more. Also for a forked child."""
        self._foreign = True
        _OPEN.discard(self)
        for descriptor in (self._descriptor, self._log):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._log = None


def synchronise(folder: Path) -> None:
    """Make new names in a folder durable, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _leave_to_the_parent() -> None:
    """Release the files in a forked child (a DataLoader worker, say): it shares their descriptors."""
    for file in list(_OPEN):
        file.release()


os.register_at_fork(after_in_child=_leave_to_the_parent)
