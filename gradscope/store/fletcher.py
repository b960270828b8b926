"""Compute the checksum of a chunk, as HDF5's own filter does."""

from __future__ import annotations

import numpy as np

#: Words that are summed at once: the sums stay below 2⁵³, so that floating point is exact, and fast.
_BLOCK = 1 << 15
_MODULUS = 65535
_PLACES = np.arange(_BLOCK, 0, -1, dtype=np.float64)


def fletcher32(data: bytes) -> int:
    """Compute Fletcher's checksum over big-endian 16-bit words: their sum, and the sum of all partial sums."""
    words = np.frombuffer(data[: len(data) // 2 * 2], ">u2")
    first = second = 0
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK].astype(np.float64)
        second += first * len(block) + int(block @ _PLACES[_BLOCK - len(block) :])
        first += int(block.sum())
    if len(data) % 2:
        first += data[-1] << 8
        second += first
    return _folded(second) << 16 | _folded(first)


def _folded(value: int) -> int:
    """Reduce modulo 65535, where only 0 itself gives 0, as folding the upper half onto the lower one does."""
    return (value - 1) % _MODULUS + 1 if value else 0
