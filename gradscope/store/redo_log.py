"""Redo log: one transaction, checksummed, beside the record that it belongs to.

Layout, little-endian: magic, number of the transaction, length of the record after it, count of pages, where the record
keeps its stamp, the stamp before and after, the digest of all that follows and of these numbers, then the page indices,
then the pages. A log that is torn, short or otherwise not what its digest says is no log.

The stamp is 8 random bytes that every transaction replaces. A record that does not hold the one or the other (or, in
the middle of applying, bytes of both) is not the one that this log was written for, and is left alone. Logs of records
that were begun without a stamp are of an older layout, and taken for what stands beside them.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradscope.store import regular
from gradscope.types import InputError

PAGE = 4096

_MAGIC, _WITHOUT_STAMP = b"GSREDO2\n", b"GSREDO1\n"
_HEADER = struct.Struct("<8sQQQQ8s8s16s")
_OLD_HEADER = struct.Struct("<8sQQQ16s")
STAMP_BYTES = 8
_NONE = bytes(STAMP_BYTES)
#: A record may be longer than its file and its pages say by what HDF5 has reserved, and not yet written.
_RESERVED = 1 << 30


@dataclass(frozen=True)
class Stamp:
    """Stamp of a transaction.

    Attributes:
        offset: where the record keeps it.
        before: what it is before the transaction.
        after: what it is after it.
    """

    offset: int
    before: bytes
    after: bytes


@dataclass(frozen=True)
class Transaction:
    """Changes of a commit.

    Attributes:
        number: of the transaction.
        size: length of the file after it.
        pages: whole ones, by index.
        stamp: None in records without one.
    """

    number: int
    size: int
    pages: Mapping[int, bytes | bytearray | memoryview]
    stamp: Stamp | None = None


def beside(path: Path) -> Path:
    """Return where the redo log of a record stands, whichever way its path is spelled."""
    return regular.beside(path, ".log")


def write(descriptor: int, transaction: Transaction) -> None:
    """Replace the log by this transaction, durably. `OSError` (no space, say) is raised before anything is lost."""
    indices = sorted(transaction.pages)
    body = [struct.pack(f"<{len(indices)}Q", *indices), *(transaction.pages[i] for i in indices)]
    numbers: tuple[int | bytes, ...] = (transaction.number, transaction.size, len(indices))
    if (stamp := transaction.stamp) is None:
        header = _OLD_HEADER.pack(_WITHOUT_STAMP, *numbers, _digest(struct.pack("<3Q", *numbers), body))
    else:
        numbers = (*numbers, stamp.offset, stamp.before, stamp.after)
        header = _HEADER.pack(_MAGIC, *numbers, _digest(struct.pack("<4Q8s8s", *numbers), body))
    parts = [header, *body]
    os.posix_fallocate(descriptor, 0, sum(map(len, parts)))
    write_all(descriptor, parts, 0)
    os.fdatasync(descriptor)


def read(log: Path) -> Transaction | None:
    """Read the complete transaction in a log. No more is read than the file really holds.

    Args:
        log: its path.

    Returns:
        The transaction; None: no log, or one that was never finished, or a file of another kind.

    Raises:
        InputError: it cannot be read, or something else than a file stands there.
    """  # noqa: DOC502 - raised by what it calls
    try:
        descriptor = regular.open_regular(log, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise regular.cannot_read(log, error) or InputError(f"cannot read {log}: {error.strerror}") from None
    try:
        return _parsed(descriptor)
    finally:
        os.close(descriptor)


def _parsed(descriptor: int) -> Transaction | None:
    start = os.pread(descriptor, _HEADER.size, 0)
    layout = {_MAGIC: _HEADER, _WITHOUT_STAMP: _OLD_HEADER}.get(start[:8])
    if layout is None or len(start) < layout.size:
        return None
    _, *numbers, digest = layout.unpack_from(start)
    number, size, count, *stamp = numbers
    length = count * (8 + PAGE)
    if layout.size + length > regular.held_bytes(descriptor):
        return None
    body = memoryview(_read(descriptor, length, layout.size))
    packed = struct.pack("<4Q8s8s" if stamp else "<3Q", *numbers)
    if len(body) < length or _digest(packed, [body]) != digest:
        return None
    indices = struct.unpack_from(f"<{count}Q", body)
    if any(index * PAGE >= size for index in indices):
        return None
    first = 8 * count
    pages = {index: body[first + PAGE * i : first + PAGE * (i + 1)] for i, index in enumerate(indices)}
    return Transaction(number, size, pages, Stamp(*stamp) if stamp else None)


def _read(descriptor: int, length: int, offset: int) -> bytearray:
    found = bytearray(length)
    done = 0
    while done < length and (more := os.preadv(descriptor, [memoryview(found)[done:]], offset + done)):
        done += more
    return found[:done]


def pending(path: Path) -> Transaction | None:
    """Return the complete transaction beside a record that belongs to it, or None."""
    transaction = read(beside(path))
    if transaction is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return transaction if belongs(transaction, descriptor) else None
    finally:
        os.close(descriptor)


def belongs(transaction: Transaction, descriptor: int) -> bool:
    """Return whether the open record is one that this transaction has been, or is to be, applied to."""
    length = os.fstat(descriptor).st_size
    pages_end = (max(transaction.pages, default=-1) + 1) * PAGE
    if transaction.size > max(length, pages_end) + _RESERVED:
        return False
    if (stamp := transaction.stamp) is None:
        return True
    here = os.pread(descriptor, STAMP_BYTES, stamp.offset).ljust(STAMP_BYTES, b"\0")
    if any(byte not in pair for byte, *pair in zip(here, stamp.before, stamp.after, strict=True)):
        return False
    # Before the first of a record there was no stamp: then the file was empty, and holds nothing but these pages.
    return stamp.before != _NONE or _holds_only(transaction, descriptor, length)


def _holds_only(transaction: Transaction, descriptor: int, length: int) -> bool:
    if length > max(transaction.size, 2 * PAGE * (len(transaction.pages) + 1)):
        return False
    for index in range(-(-length // PAGE)):
        here = np.frombuffer(os.pread(descriptor, PAGE, index * PAGE), np.uint8)
        page = np.frombuffer(transaction.pages.get(index, bytes(PAGE)), np.uint8)[: len(here)]
        if ((here != 0) & (here != page)).any():
            return False
    return True


def ours(log: Path) -> bool:
    """Return whether a file is a log that a writer of ours left, torn ones included, and not the user's own."""
    try:
        descriptor = regular.open_regular(log, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        start = os.pread(descriptor, len(_MAGIC), 0)
    finally:
        os.close(descriptor)
    # Reserved and not yet written: zeros. An empty file may be what a shell has just opened for its output.
    return start in (_MAGIC, _WITHOUT_STAMP) or (bool(start) and not any(start))


def apply(descriptor: int, transaction: Transaction) -> None:
    """Write the pages to their places. Doing it twice, or again after half of it, comes to the same."""
    run: list[bytes | bytearray | memoryview] = []
    indices = sorted(transaction.pages)
    for here, following in zip(indices, [*indices[1:], None], strict=True):
        run.append(transaction.pages[here])
        if following != here + 1:
            write_all(descriptor, run, (here + 1 - len(run)) * PAGE)
            run = []
    os.ftruncate(descriptor, transaction.size)


def redo(path: Path) -> bool:
    """Apply a complete log to its record and remove the log; return whether there was one."""
    log = beside(path)
    transaction = pending(path)
    if transaction is not None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            apply(descriptor, transaction)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    if transaction is None:
        put_aside(path)
    else:
        log.unlink(missing_ok=True)
    return transaction is not None


def put_aside(path: Path) -> None:
    """Clear the place of a log before a record is begun or continued.

    A complete one, of a record that has been moved away, is kept under another name.
    """
    log = beside(path)
    if read(log) is not None:
        log.replace(log.with_name(log.name + ".of-another-record"))
    else:
        log.unlink(missing_ok=True)


def write_all(descriptor: int, parts: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
    """Write all parts, one after the other, from an offset on."""
    for first in range(0, len(parts), 512):  # IOV_MAX is 1024
        views = [memoryview(part) for part in parts[first : first + 512]]
        while views:
            written = os.pwritev(descriptor, views, offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]


def _digest(numbers: bytes, body: Sequence[bytes | bytearray | memoryview]) -> bytes:
    digest = hashlib.blake2b(numbers, digest_size=16)
    for part in body:
        digest.update(part)
    return digest.digest()
