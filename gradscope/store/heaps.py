"""Check HDF5's heaps of texts before HDF5 reads them: in one whose entries lead nowhere it would loop for ever."""

from __future__ import annotations

from collections.abc import Callable

from gradscope.store.bounds import MOST_TEXT

#: How a collection of the global heap begins: signature, version 1, three reserved bytes.
START = b"GCOL\x01\x00\x00\x00"
#: Bytes before the first entry, before the data of each, and of the smallest collection.
_HEADER, _ENTRY, _SMALLEST = 16, 16, 4096
_NOTHING = bytes(len(START))
#: Damaged collections in one piece, after which all that follow in it are taken to be: none has so many by accident.
_MOST_DAMAGED = 16


def hide_damaged(piece: memoryview, position: int, at: Callable[[int, int], bytes]) -> None:
    """Overwrite, in a piece of a file as it was read, the signature of every collection whose entries do not fill it.

    HDF5 then refuses such a collection if it ever comes to it, and reads what lies beside it. The layout is that of the
    HDF5 file format specification, III.E, "Global Heap".

    Args:
        piece: changed in place.
        position: of the piece in the file.
        at: returns bytes of the file from an offset on.
    """
    data, damaged = bytes(piece), 0

    def read(offset: int, size: int) -> bytes:
        inside = data[offset : offset + size]
        return inside if len(inside) == size else at(position + offset, size)

    start = data.find(START)
    while start >= 0:
        size = _size(read, start)
        if not size:
            piece[start : start + len(START)] = _NOTHING
            damaged += 1
        if damaged == _MOST_DAMAGED:
            piece[start:] = data[start:].replace(START, _NOTHING)
            return
        start = data.find(START, start + max(size, len(START)))  # what stands inside of a sound one is its texts


def _size(read: Callable[[int, int], bytes], start: int) -> int:
    """Return the bytes of a collection whose entries fill it; 0 of any other. Each entry is looked at once."""
    size = int.from_bytes(read(start + 8, 8), "little")
    if not _SMALLEST <= size <= MOST_TEXT or not read(start + size - 1, 1):  # or it ends behind the file
        return 0
    place = _HEADER
    while place + _ENTRY <= size:
        entry = read(start + place, _ENTRY)
        number, length = (int.from_bytes(entry[i:j], "little") for i, j in ((0, 2), (8, 16)))
        # The free space, number 0, counts its own header; the others are padded to eight bytes.
        taken = length if number == 0 else _ENTRY + (length + 7) // 8 * 8
        if not _ENTRY <= taken <= size - place:
            return 0
        place += taken
    return size
