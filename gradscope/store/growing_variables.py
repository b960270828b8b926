"""Write the growing variables of a record, chunk by chunk.

A full chunk is filtered and written once. The last, unfinished one is written plain, with a checksum (HDF5 notes with
each chunk which filters it went through), so that publishing a few more rows rewrites a few pages of it, and never
compresses a row twice. The plain chunks go before the full ones come: the file does not grow by their holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gradscope.store.chunks import OURS, checksum, filters

LEVEL = 1  # of ISA-L's deflate, which any zlib inflates: ten times faster than zlib's level 1, 1.5 % larger


class Column:
    """One growing variable: its data set, and the rows of the chunk that is not full yet.

    Args:
        dataset: of the variable.
        keep_bits: of the mantissa of float32 values, None for all.

    Attributes:
        dataset: of the variable.
        rows: that it has been given.
    """

    def __init__(self, dataset: h5py.Dataset, keep_bits: int | None = None) -> None:
        self.dataset = dataset
        self.rows = 0
        self._finished = False
        self._keep_bits = keep_bits if dataset.dtype == np.float32 else None
        self._fill = dataset.fillvalue
        self._tail: NDArray[Any] = np.full(dataset.chunks, self._fill, dtype=dataset.dtype)
        self._full: list[tuple[int, NDArray[Any]]] = []
        self._filters = filters(dataset)
        # A plain chunk goes through none but the checksum.
        self._skipped = sum(1 << n for n, name in enumerate(self._filters) if name != h5py.h5z.FILTER_FLETCHER32)

    def load(self, rows: int) -> None:
        """Continue a data set that holds rows already: its last chunk becomes the unfinished one."""
        self.rows = rows
        start = rows - rows % len(self._tail)
        self._tail[: rows - start] = self.dataset[start:rows]

    def extend(self, values: NDArray[Any] | None, count: int) -> None:
        """Append ``count`` rows of values, [count, …]; None: fill values."""
        if values is not None and self._keep_bits is not None:
            values = rounded(np.asarray(values, dtype=np.float32), self._keep_bits)
        done = 0
        while done < count:
            at = self.rows % len(self._tail)
            more = min(count - done, len(self._tail) - at)
            self._tail[at : at + more] = self._fill if values is None else values[done : done + more]
            done += more
            self.rows += more
            if at + more == len(self._tail):
                self._full.append((self.rows - len(self._tail), self._tail))
                self._tail = np.full_like(self._tail, self._fill)

    def drop_plain_chunk(self) -> None:
        """Free the unfinished chunk where it is about to be replaced by full ones."""
        if self._full:
            self.dataset.resize(self._full[0][0], axis=0)

    def write_full_chunks(self) -> None:
        """Filter the full chunks and write them, for good."""
        self.dataset.resize(self.rows, axis=0)
        for start, values in self._full:
            self._write_filtered(start, values)
        self._full = []

    def write_plain_chunk(self) -> None:
        """Write the rows since the last full chunk without filters."""
        start = self.rows - self.rows % len(self._tail)
        if start < self.rows and not self._finished:
            where = (start, *(0 for _ in self._tail.shape[1:]))
            self.dataset.id.write_direct_chunk(where, self._checked(self._tail.tobytes()), self._skipped)

    def finish(self) -> None:
        """Filter the unfinished chunk like the others: no more rows will come."""
        start = self.rows - self.rows % len(self._tail)
        self._finished = True
        if start < self.rows:
            self._full.append((start, self._tail))

    def _write_filtered(self, start: int, values: NDArray[Any]) -> None:
        if self._filters not in OURS:  # a filter that only HDF5 can run
            self.dataset[start : start + len(values)] = values[: len(self.dataset) - start]
            return
        data = values.tobytes()
        if h5py.h5z.FILTER_DEFLATE in self._filters:
            # Outside HDF5, because this lets go of the interpreter lock while it works, as HDF5 does not.
            shuffled = np.frombuffer(data, np.uint8).reshape(-1, values.itemsize).T.tobytes()
            data = isal_zlib.compress(shuffled, LEVEL)
        self.dataset.id.write_direct_chunk((start, *(0 for _ in values.shape[1:])), self._checked(data), 0)

    def _checked(self, data: bytes) -> bytes:
        return data + checksum(data) if h5py.h5z.FILTER_FLETCHER32 in self._filters else data


def publish(columns: Sequence[Column]) -> None:
    """Write what the columns hold: after this the data sets are as long as the columns."""
    for column in columns:
        column.drop_plain_chunk()
    for column in columns:
        column.write_full_chunks()
    for column in columns:
        column.write_plain_chunk()


def rounded(values: NDArray[np.float32], keep_bits: int) -> NDArray[np.float32]:
    """Round to ``keep_bits`` bits of the mantissa, half to even; relative error at most 2^−(keep_bits + 1)."""
    drop = 23 - keep_bits
    bits = values.view(np.uint32)
    even = (bits >> np.uint32(drop)) & np.uint32(1)
    half = np.uint32((1 << (drop - 1)) - 1)
    mask = np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    near = ((bits + half + even) & mask).view(np.float32)
    return np.where(np.isfinite(values) & np.isfinite(near), near, values)


def bits_for(digits: int) -> int:
    """Return the bits of the mantissa that hold ``digits`` significant decimals: relative error ≤ ½·10^−digits."""
    return int(np.ceil(digits * np.log2(10)))
