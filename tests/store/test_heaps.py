"""HDF5's heaps of texts, looked at before HDF5 does; whole records with damaged ones are in `test_hostile_records`."""

from __future__ import annotations

import struct

from gradscope.store.heaps import START, hide_damaged


def heap(*entries: tuple[int, bytes]) -> bytes:
    """A sound collection of the smallest size, whose free space fills it."""
    data = START + struct.pack("<Q", 4096)
    for number, text in entries:
        data += struct.pack("<HHIQ", number, 1, 0, len(text)) + text.ljust(-(-len(text) // 8) * 8, b"\0")
    return (data + struct.pack("<HHIQ", 0, 0, 0, 4096 - len(data))).ljust(4096, b"\0")


def test_texts_that_look_like_heaps_stay_as_they_are() -> None:
    data = bytearray(heap((1, START * 20), (2, b"a text")) + heap((1, b"another")))
    whole = bytes(data)
    hide_damaged(memoryview(data), 0, lambda offset, size: whole[offset : offset + size])
    assert data == whole


def test_a_heap_that_goes_on_behind_the_piece_is_followed_there() -> None:
    file = heap((1, b"x" * 3000))
    for end, hidden in ((file, False), (file[:-1], True)):  # whole, or cut off
        piece = bytearray(file[:512])
        hide_damaged(memoryview(piece), 0, lambda offset, size, end=end: end[offset : offset + size])  # type: ignore[misc]
        assert (START not in piece) == hidden


def test_a_piece_full_of_damaged_heaps_is_not_looked_at_for_ever() -> None:
    data = bytearray((START + struct.pack("<Q", 8 << 20)) * 10_000)
    asked: list[int] = []

    def at(offset: int, size: int) -> bytes:
        asked.append(offset)
        return bytes(size)

    hide_damaged(memoryview(data), 0, at)
    assert START not in data
    assert len(asked) < 100
