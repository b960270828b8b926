"""The redo log: one transaction, checksummed, beside the record.

Layout, little-endian: magic, number of the transaction, length of the record after it, count of pages, the
digest of all that follows and of these numbers, then the page indices, then the pages. A log that is torn,
short or otherwise not what its digest says is no log.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096

_MAGIC = b"GSREDO1\n"
_HEADER = struct.Struct("<8sQQQ16s")
_FAR = 1 << 62  # no record is that long: what claims to be was not written here


@dataclass(frozen=True)
class Transaction:
    """What a commit changes: the length of the file after it, and whole pages by index."""

    number: int
    size: int
    pages: Mapping[int, bytes | bytearray]


def beside(path: Path) -> Path:
    """Where the redo log of a record stands."""
    return path.with_name(path.name + ".log")


def write(descriptor: int, transaction: Transaction) -> None:
    """Replace the log by this transaction, durably. Raises `OSError` (no space, say): nothing is lost then."""
    indices = sorted(transaction.pages)
    body = [struct.pack(f"<{len(indices)}Q", *indices), *(transaction.pages[i] for i in indices)]
    numbers = (transaction.number, transaction.size, len(indices))
    parts = [_HEADER.pack(_MAGIC, *numbers, _digest(numbers, body)), *body]
    os.posix_fallocate(descriptor, 0, sum(map(len, parts)))
    write_all(descriptor, parts, 0)
    os.fdatasync(descriptor)


def read(path: Path) -> Transaction | None:
    """The complete transaction in a log, or None: no log, or one that was never finished."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return None
            magic, number, size, count, digest = _HEADER.unpack(header)
            length = count * (8 + PAGE)
            if magic != _MAGIC or size > _FAR or length > os.fstat(file.fileno()).st_size:
                return None
            body = file.read(length)
    except FileNotFoundError:
        return None
    if len(body) < length or _digest((number, size, count), [body]) != digest:
        return None
    indices = struct.unpack_from(f"<{count}Q", body)
    start = 8 * count
    pages = {index: body[start + PAGE * i : start + PAGE * (i + 1)] for i, index in enumerate(indices)}
    return Transaction(number, size, pages)


def apply(descriptor: int, transaction: Transaction) -> None:
    """Bring the pages to their places. Doing it twice, or again after half of it, comes to the same."""
    run: list[bytes | bytearray] = []
    indices = sorted(transaction.pages)
    for here, following in zip(indices, [*indices[1:], None], strict=True):
        run.append(transaction.pages[here])
        if following != here + 1:
            write_all(descriptor, run, (here + 1 - len(run)) * PAGE)
            run = []
    os.ftruncate(descriptor, transaction.size)


def redo(path: Path) -> bool:
    """Apply a complete log to its record and take the log away; True if there was one."""
    log = beside(path)
    transaction = read(log)
    if transaction is not None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            apply(descriptor, transaction)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    log.unlink(missing_ok=True)
    return transaction is not None


def write_all(descriptor: int, parts: list[bytes | bytearray], offset: int) -> None:
    """All parts, one after the other, from an offset on."""
    for first in range(0, len(parts), 512):  # IOV_MAX is 1024
        views = [memoryview(part) for part in parts[first : first + 512]]
        while views:
            written = os.pwritev(descriptor, views, offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]


def _digest(numbers: tuple[int, int, int], body: list[bytes | bytearray]) -> bytes:
    digest = hashlib.blake2b(struct.pack("<3Q", *numbers), digest_size=16)
    for part in body:
        digest.update(part)
    return digest.digest()
