"""Reads many rows of a variable at once: its chunks are inflated side by side, outside of HDF5.

HDF5 inflates one chunk after the other under a lock of its own; a file that nobody writes can be read past it. What
is not stored as our writer stores it is left to HDF5, and so is whatever goes wrong: its errors are the ones told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

#: Fewer chunks than this are not worth the threads.
FEWEST = 4
_FILTERED, _PLAIN = 0, 0b11  # as HDF5 notes which of the two filters a chunk did not go through


@dataclass(frozen=True)
class _Chunk:
    first: int  # row
    mask: int
    offset: int
    size: int


def rows(path: Path, name: str, start: int, stop: int) -> NDArray[Any] | None:
    """Rows [start, stop, …] of a growing variable; None where HDF5 has to do it."""
    # Opened here, and closed: an object of h5py that outlives its file can bring the process down.
    with h5py.File(path, "r", locking=False) as record:
        dataset = record[name]
        if not _ours(dataset) or stop - start < FEWEST * dataset.chunks[0]:
            return None
        found: list[_Chunk] = []
        dataset.id.chunk_iter(lambda c: found.append(_Chunk(c.chunk_offset[0], c.filter_mask, c.byte_offset, c.size)))
        shape, dtype, fill = dataset.chunks, dataset.dtype, dataset.fillvalue
    length = shape[0]
    wanted = [chunk for chunk in found if start - length < chunk.first < stop]
    if any(chunk.mask not in (_FILTERED, _PLAIN) for chunk in wanted):
        return None
    out = np.full((stop - start, *shape[1:]), fill, dtype)
    with _opened(path) as file, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:

        def one(chunk: _Chunk) -> None:
            data = os.pread(file, chunk.size, chunk.offset)
            first, last = chunk.first, chunk.first + length
            if start <= first and last <= stop:
                _decode(data, chunk.mask, out[first - start : last - start])
            else:
                values = np.empty(shape, dtype)
                _decode(data, chunk.mask, values)
                out[max(first, start) - start : last - start] = values[max(first, start) - first : stop - first]

        try:
            for _ in pool.map(one, wanted):
                pass
        except Exception:  # HDF5 will say what is wrong
            return None
    return out


def _ours(dataset: h5py.Dataset) -> bool:
    return (
        dataset.chunks is not None
        and dataset.chunks[1:] == dataset.shape[1:]
        and dataset.dtype.kind in "fi"
        and dataset.dtype.isnative
        and dataset.compression == "gzip"
        and dataset.shuffle
        and dataset.id.get_create_plist().get_nfilters() == 2
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _decode(data: bytes, mask: int, values: NDArray[Any]) -> None:
    """Fill the values of a chunk. Raises `ValueError` where there are not as many as there have to be."""
    if mask == _FILTERED:
        data = isal_zlib.decompressobj().decompress(data, values.nbytes + 1)  # no more, whatever the chunk claims
    if len(data) != values.nbytes:
        raise ValueError(f"a chunk of {len(data)} bytes, expected {values.nbytes}")
    octets = values.reshape(-1).view(np.uint8)
    if mask == _PLAIN:
        octets[:] = np.frombuffer(data, np.uint8)
        return
    planes = np.frombuffer(data, np.uint8).reshape(values.itemsize, -1)
    for place, plane in enumerate(planes):  # three times as fast as one transposed copy
        octets[place :: values.itemsize] = plane
