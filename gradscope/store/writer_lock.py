"""Keep one writer a record: a lock file beside it with process, host and heartbeat, held by flock where that works."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import weakref
from pathlib import Path
from typing import Any

from gradscope.store import regular
from gradscope.types import InputError

#: Seconds between two heartbeats, and without one after which a writer on another host counts as gone.
HEARTBEAT, GONE = 5.0, 120.0

_HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def beside(path: Path) -> Path:
    """Return where the lock of a record stands."""
    return regular.beside(path, ".lock")


class WriterLock:
    """Lock of a record, held until it is released.

    Args:
        path: of the record.

    Raises:
        InputError: another writer is at work, or the lock cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = beside(path)
        self._beaten = time.monotonic()
        try:
            self._descriptor, locked = _opened(self._path)
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from None
        other = _holder(self._descriptor)
        if locked is not False and other is None and os.fstat(self._descriptor).st_size:
            os.close(self._descriptor)
            raise InputError(f"{self._path} is no lock of gradscope; move it away, or give another path than {path}")
        if locked is False or (other is not None and _lives(other, self._descriptor, locked)):
            os.close(self._descriptor)
            raise InputError(f"{path} is being written by {_described(other)}; {_remedy(other)}, or give another path")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "born": _born(os.getpid())}
        with contextlib.suppress(OSError):  # a full disk: flock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(me).encode(), 0)
        _HELD.add(self)

    def beat(self) -> None:
        """Give a sign of life for other hosts."""
        if time.monotonic() - self._beaten >= HEARTBEAT:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    def release(self) -> None:
        """Remove the lock file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor and leave the lock to the process it belongs to."""
        _HELD.discard(self)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def writer_of(path: Path) -> str | None:
    """Return who writes a record at this moment, in words, or None. Never changes anything."""
    try:
        descriptor = regular.open_regular(beside(path), os.O_RDONLY)
    except (OSError, InputError):
        return None
    try:
        other = _holder(descriptor)
        locked = _lock(descriptor, fcntl.LOCK_SH)
        alive = locked is False or (other is not None and _lives(other, descriptor, locked))
        return _described(other) if alive else None
    finally:
        os.close(descriptor)


def _opened(path: Path) -> tuple[int, bool | None]:
    """Open the lock file, and return whether flock has it; try again where a reader holds it, or the file has gone."""
    for _ in range(20):
        descriptor = regular.open_regular(path, os.O_RDWR | os.O_CREAT)
        locked = _lock(descriptor, fcntl.LOCK_EX)
        if locked is not False and path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor, locked
        os.close(descriptor)
        time.sleep(0.01)
    return regular.open_regular(path, os.O_RDWR | os.O_CREAT), False


def _lock(descriptor: int, kind: int) -> bool | None:
    """Take flock: True: taken now; False: another holds it; None: this file system has no such locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _holder(descriptor: int) -> dict[str, Any] | None:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _lives(other: dict[str, Any], descriptor: int, locked: bool | None) -> bool:
    """Return whether the writer that left its name still runs; flock answers only for this host."""
    if other.get("host") != socket.gethostname():
        return time.time() - os.fstat(descriptor).st_mtime < GONE
    return not locked and other.get("born") == _born(other.get("pid"))


def _remedy(other: dict[str, Any] | None) -> str:
    if other is not None and other.get("pid") == os.getpid() and other.get("host") == socket.gethostname():
        return "that is this process: close the earlier recording, gradscope.close_recordings() closes all"
    return "wait for it to end"


def _described(other: dict[str, Any] | None) -> str:
    if other is None:
        return "another process"
    return f"process {other.get('pid')} on {other.get('host')}"


def _born(pid: Any) -> str | None:
    """Return when a process of this host began, in the kernel's own units; None if there is none."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _leave_to_the_parent() -> None:
    for lock in list(_HELD):
        lock.abandon()


os.register_at_fork(after_in_child=_leave_to_the_parent)
