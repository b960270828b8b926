"""Read the chunks of a record past HDF5: checked, inflated side by side, and never to more than a chunk may hold.

HDF5 inflates one chunk after the other under a lock of its own, and a chunk that was made to hurt to whatever it
claims. What is not stored as our writer stores it is left to HDF5, once its chunks are no larger than they may be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gradscope.store.fletcher import fletcher32

#: Fewer chunks than this are not worth the threads.
FEWEST = 4
#: As many chunks as this are looked up one by one; for more, the whole index is read.
LOOKED_UP = 16
OURS = (
    (),
    (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE),
    (h5py.h5z.FILTER_FLETCHER32,),
    (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32),
)
CHECKSUM_BYTES = 4
_INFLATE_ERROR: Any = isal_zlib.error


class RottenError(ValueError):
    """Chunk whose content is not what was written.

    Args:
        what: what is wrong, for the message.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: it is not what was written (bit rot)")


class ChunkSource(Protocol):
    """File as bytes by their place."""

    def at(self, offset: int, size: int) -> bytes:
        """Return bytes from an offset on."""
        ...


@dataclass(frozen=True)
class _Chunk:
    first: int  # row
    mask: int  # the filters that it did not go through, by bits
    offset: int
    size: int


def filters(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the numbers of the filters that the chunks go through, in order."""
    properties = dataset.id.get_create_plist()
    return tuple(int(properties.get_filter(i)[0]) for i in range(properties.get_nfilters()))


def rows(source: ChunkSource, dataset: h5py.Dataset, key: tuple[Any, ...]) -> NDArray[Any]:
    """Read ``dataset[key]``, an outer index: slices, whole numbers and arrays of them.

    Args:
        source: the bytes of the file.
        dataset: the variable.
        key: an index for each axis.

    Returns:
        The values.

    Raises:
        ValueError: a chunk holds something else than it has to.
    """  # noqa: DOC502 - raised by what it calls
    pipeline = filters(dataset)
    if not _ours(dataset, pipeline):
        _refuse_large(dataset)
        return np.asarray(dataset[key])
    wanted = np.arange(len(dataset))[key[0]]
    number, rest = np.atleast_1d(wanted), key[1:]
    shape, dtype = dataset.chunks, dataset.dtype
    found = _chunks(dataset, np.unique(number // shape[0]))
    one_row = np.empty((0, *shape[1:]), dtype)[(slice(None), *rest)]
    out = np.full((len(number), *one_row.shape[1:]), dataset.fillvalue, dtype)
    sides = zip(rest, shape[1:], strict=True)
    whole = all(isinstance(part, slice) and part.indices(n) == (0, n, 1) for part, n in sides)
    following = bool((np.diff(number) == 1).all())

    def one(chunk: _Chunk) -> None:
        data = source.at(chunk.offset, chunk.size)
        if following:
            first, last = int(number[0]), int(number[-1]) + 1
            if whole and first <= chunk.first and chunk.first + shape[0] <= last:
                decode(data, chunk.mask, pipeline, out[chunk.first - first : chunk.first - first + shape[0]])
                return
            inside = slice(max(first, chunk.first), min(last, chunk.first + shape[0]))
            to: Any = slice(inside.start - first, inside.stop - first)
            of: Any = slice(inside.start - chunk.first, inside.stop - chunk.first)
        else:
            to = number // shape[0] == chunk.first // shape[0]
            of = number[to] - chunk.first
        values = np.empty(shape, dtype)
        decode(data, chunk.mask, pipeline, values)
        out[to] = values[of][(slice(None), *rest)]

    _each(one, found)
    return out if np.ndim(wanted) else out[0]


def _ours(dataset: h5py.Dataset, pipeline: tuple[int, ...]) -> bool:
    return (
        dataset.chunks is not None
        and dataset.ndim > 0
        and dataset.chunks[1:] == dataset.shape[1:]
        and dataset.dtype.kind in "fiub"
        and dataset.dtype.isnative
        and dataset.dtype.metadata is None
        and pipeline in OURS
    )


def _refuse_large(dataset: h5py.Dataset) -> None:
    """Refuse chunks that filters of HDF5 would inflate from more bytes than a chunk's own size, or from none."""
    if dataset.chunks is None:
        return
    allowed = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    sizes: list[int] = []
    dataset.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    for size in sizes:
        if not CHECKSUM_BYTES < size <= allowed + allowed // 8 + 4096:
            raise ValueError(f"a chunk of {allowed} bytes is stored in {size}")


def _chunks(dataset: h5py.Dataset, numbers: NDArray[Any]) -> list[_Chunk]:
    """Find where the chunks of these numbers are stored; those that never were are left out."""
    length, rest = dataset.chunks[0], (0,) * (dataset.ndim - 1)
    found: list[_Chunk] = []
    if len(numbers) <= LOOKED_UP:
        for number in numbers.tolist():
            info = dataset.id.get_chunk_info_by_coord((number * length, *rest))
            if info.byte_offset is not None:
                found.append(_Chunk(number * length, info.filter_mask, info.byte_offset, info.size))
        return found
    wanted = set(numbers.tolist())

    def look(chunk: Any) -> None:
        if chunk.chunk_offset[0] // length in wanted:
            found.append(_Chunk(chunk.chunk_offset[0], chunk.filter_mask, chunk.byte_offset, chunk.size))

    dataset.id.chunk_iter(look)
    return found


def _each(one: Callable[[_Chunk], None], found: list[_Chunk]) -> None:
    if len(found) < FEWEST:
        for chunk in found:
            one(chunk)
        return
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(one, found):
            pass


def checksum(data: bytes) -> bytes:
    """Compute what HDF5's filter puts after the data of a chunk."""
    return fletcher32(data).to_bytes(CHECKSUM_BYTES, "little")


def decode(data: bytes, mask: int, pipeline: tuple[int, ...], values: NDArray[Any]) -> None:
    """Fill the values of a chunk, undoing its filters.

    Args:
        data: the chunk as it is stored.
        mask: the filters that it did not go through, by bits.
        pipeline: numbers of the filters, in order.
        values: to be filled, of the chunk's shape.

    Raises:
        RottenError: it does not have its checksum.
        ValueError: it does not hold just these values.
    """
    shuffled = False
    for number, name in reversed(list(enumerate(pipeline))):
        if mask >> number & 1:
            continue
        if name == h5py.h5z.FILTER_FLETCHER32:
            data, told = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
            if checksum(data) != told:
                raise RottenError("a chunk does not have its checksum")
        elif name == h5py.h5z.FILTER_DEFLATE:
            data = _inflated(data, values.nbytes)
        else:
            shuffled = True
    if len(data) != values.nbytes:
        raise ValueError(f"a chunk of {len(data)} bytes, expected {values.nbytes}")
    octets = values.reshape(-1).view(np.uint8)
    if not shuffled:
        octets[:] = np.frombuffer(data, np.uint8)
        return
    planes = np.frombuffer(data, np.uint8).reshape(values.itemsize, -1)
    for place, plane in enumerate(planes):  # three times as fast as one transposed copy
        octets[place :: values.itemsize] = plane


def _inflated(data: bytes, size: int) -> bytes:
    stream = isal_zlib.decompressobj()
    try:
        found: bytes = stream.decompress(data, size + 1)  # no more, whatever the chunk claims
    except _INFLATE_ERROR as error:
        raise RottenError(f"a chunk cannot be inflated ({error})") from None
    if len(found) == size and not stream.eof:
        found += stream.decompress(stream.unconsumed_tail, 1)  # reads its checksum
    if len(found) != size or not stream.eof:
        raise RottenError("a chunk does not inflate to its size")
    return found
