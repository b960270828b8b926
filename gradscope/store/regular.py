"""Open regular files and nothing else: what stands beside a record may be the user's own, or made to hurt."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from gradscope.types import InputError

_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
#: A record that is written in one piece has few of them; what has more is judged by the first ones.
MOST_STRETCHES = 4096
#: Errors that say nothing about the file: of the process or the machine.
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)

#: What HDF5 and those who read it raise for damaged files.
DAMAGE = (
    OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError, MemoryError,
    AssertionError,
)  # fmt: skip


def beside(path: Path, suffix: str) -> Path:
    """Return where a companion of a record stands: a record is one file, however its path is spelled or linked."""
    return Path(os.path.realpath(path) + suffix)


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file. Never follows a link and never waits for a pipe.

    Args:
        path: of the file.
        flags: of `os.open`.

    Returns:
        A descriptor.

    Raises:
        InputError: something else stands there.
        OSError: nothing does, or it cannot be opened.
    """  # noqa: DOC502 - raised by what it calls
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        found = stat.S_IFREG
    if stat.S_ISREG(found):
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        found = os.fstat(descriptor).st_mode
        if stat.S_ISREG(found):
            return descriptor
        os.close(descriptor)
    kind = _KINDS.get(stat.S_IFMT(found), "no regular file")
    raise InputError(f"{path} is {kind}; gradscope keeps a file of its own there, and leaves this alone: move it away")


def held_bytes(descriptor: int) -> int:
    """Count the bytes that a file really holds, without its holes: what it may claim is measured by them."""
    size = os.fstat(descriptor).st_size
    held = position = 0
    try:
        for _ in range(MOST_STRETCHES):
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
            held += position - start
            if position >= size:
                break
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: no more data; others: this file system knows no holes
            return size
    return held


def cannot_read(path: object, error: BaseException) -> InputError | None:
    """Make the error where it is the machine's (no descriptor left, no permission); None: it is the file's."""
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number in OF_THE_MACHINE:
        return InputError(f"cannot read {path}: {os.strerror(number).lower()}; the record itself may be sound")
    return None


def damaged(path: Any, error: BaseException, name: str = "") -> InputError:
    """Make the error of a damaged record, or of the machine."""
    if (elsewhere := cannot_read(path, error)) is not None:
        return elsewhere
    said = " ".join((str(error) or type(error).__name__).split())[:200]
    where = f" at {name}" if name else ""
    return InputError(f"{path} is a damaged record{where}: {said}; see what can be saved: gradscope recover {path}")
