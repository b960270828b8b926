"""Check HDF5's heaps of texts before HDF5 reads them: in one whose entries lead nowhere it would loop for ever."""

from __future__ import annotations

from collections.abc import Callable

from gradscope.store.bounds import MOST_TEXT

#: How a collection of the global heap begins: signature, version 1, three reserved bytes.
START = b"GCOL\x01\x00\x00\x00"
#: Bytes before the first entry, before the data of each, and of the smallest collection.
_HEADER, _ENTRY, _SMALLEST = 16, 16, 4096


def hide_damaged(piece: memoryview, position: int, at: Callable[[int, int], bytes]) -> None:
    """Overwrite, in a piece of a file as it was read, the signature of every collection whose entries do not fill it.

    HDF5 then refuses such a collection if it ever comes to it, and reads what lies beside it. The layout is that of the
    HDF5 file format specification, III.E, "Global Heap".

    Args:
        piece: changed in place.
        position: of the piece in the file.
        at: returns bytes of the file from an offset on.
    """
    data = bytes(piece)
    start = data.find(START)
    while start >= 0:
        if not _sound(at, position + start):
            piece[start : start + len(START)] = bytes(len(START))
        start = data.find(START, start + 1)


def _sound(at: Callable[[int, int], bytes], position: int) -> bool:
    size = int.from_bytes(at(position + 8, 8), "little")
    if not _SMALLEST <= size <= MOST_TEXT:
        return False
    data = at(position, size)
    place = _HEADER
    while place + _ENTRY <= len(data):
        number, length = (int.from_bytes(data[place + i : place + j], "little") for i, j in ((0, 2), (8, 16)))
        # The free space, number 0, counts its own header; the others are padded to eight bytes.
        taken = length if number == 0 else _ENTRY + (length + 7) // 8 * 8
        if not _ENTRY <= taken <= len(data) - place:
            return False
        place += taken
    return True
