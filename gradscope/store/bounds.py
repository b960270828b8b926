"""Bound how much a record may make its reader read: texts, attributes, rows. Asked before anything of it is read."""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

import h5py
import numpy as np

from gradscope.store.chunks import CHECKSUM_BYTES, filters

#: Bytes of the largest single structure of HDF5's that is read: an attribute, a heap of texts, a list of names.
LARGEST_READ = 8 << 20
#: Bytes of all texts of a table, or of all attributes, together; texts of a table.
MOST_TEXT, MOST_TEXTS = 64 << 20, 1_000_000
#: Members of a group; attributes of one; axes of an array, and so the texts in an attribute, which name them.
MOST_LINKS, MOST_ATTRIBUTES, MOST_AXES = 2000, 256, 3
#: Values in a JSON attribute, and how deep they may lie.
MOST_VALUES, DEEPEST = 1_000_000, 32
#: Bytes in memory a byte of the file: gzip's best is about 1032; a megabyte is there for what has no chunk.
MOST_PER_BYTE, SLACK = 1100, 1 << 20
#: A row takes a byte at the very least (its time is a float64 of random bits), and is granted half of one; short
#: files are not worth the question.
MOST_ROWS_PER_BYTE, FEW_ROWS = 2, 1_000_000
#: Bytes of a chunk, inflated: of one that is read past HDF5, and of one that HDF5 itself reads.
CHUNK_BYTES, STEP_CHUNK_BYTES = 32 << 20, 1 << 16

_DESCRIPTOR = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])  # of a text, in its chunk
_FIXED = 1 << 20  # values of an attribute without texts
#: The types of what a record holds. Of others HDF5 and h5py fall over some that are damaged.
PLAIN = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID)


class View(Protocol):
    """Record as bytes.

    Attributes:
        held: how many there really are.
    """

    held: int

    def at(self, offset: int, size: int) -> bytes:
        """Return bytes from an offset on."""
        ...


class ClaimError(ValueError):
    """More is claimed than can be, or than is read."""


def check_rows(rows: int, held: int) -> None:
    """Check that a file of ``held`` bytes can hold so many rows.

    Args:
        rows: claimed.
        held: bytes that the file really holds.

    Raises:
        ClaimError: it cannot.
    """
    if rows > FEW_ROWS + MOST_ROWS_PER_BYTE * held:
        raise ClaimError(f"it claims {rows} rows in {held} bytes")


def claimed(item: h5py.Dataset) -> int:
    """Return the bytes of a variable in memory."""
    return int(math.prod(item.shape) * item.dtype.itemsize)


def check_claims(total: int, held: int) -> None:
    """Check that all variables together are no larger than their bytes can be inflated to.

    Args:
        total: bytes of all variables in memory.
        held: bytes that the file really holds.

    Raises:
        ClaimError: they are.
    """
    if total > SLACK + MOST_PER_BYTE * held:
        raise ClaimError(f"its variables claim {total} bytes in a file of {held}")


def check_chunk(item: h5py.Dataset, name: str, held: int) -> None:
    """Check that chunks are small enough to be read one at a time, or no larger than the file.

    Args:
        item: the variable.
        name: of the variable.
        held: bytes that the file really holds.

    Raises:
        ClaimError: they are larger.
    """
    if item.chunks is None:
        return
    size = math.prod(item.chunks) * item.dtype.itemsize
    if size > CHUNK_BYTES and size > held:
        raise ClaimError(f"{name} has chunks of {size} bytes")


def check_small_chunks(item: h5py.Dataset, name: str) -> None:
    """Check the chunks of a variable that HDF5 itself reads: all there, small, and not inflated to more than that.

    Args:
        item: the variable.
        name: of the variable.

    Raises:
        ClaimError: something of that does not hold.
    """
    if item.chunks is None:
        return
    size = math.prod(item.chunks) * item.dtype.itemsize
    if size > STEP_CHUNK_BYTES:
        raise ClaimError(f"{name} has chunks of {size} bytes")
    stored: list[int] = []
    item.id.chunk_iter(lambda chunk: stored.append(chunk.size))
    expected = math.prod(-(-n // c) for n, c in zip(item.shape, item.chunks, strict=True))
    if len(stored) < expected:
        raise ClaimError(f"{name} claims {expected} chunks and has {len(stored)}")
    # HDF5 removes the checksum without looking at the size, and crashes where there is none.
    if min(stored, default=size) <= CHECKSUM_BYTES * (h5py.h5z.FILTER_FLETCHER32 in filters(item)):
        raise ClaimError(f"{name} has a chunk that is stored in {min(stored)} bytes")
    if max(stored, default=0) > 2 * size + 4096:
        raise ClaimError(f"{name} has a chunk of {size} bytes that is stored in {max(stored)}")


# -- texts ----------------------------------------------------------------------------------------


def check_texts(item: h5py.Dataset, name: str, view: View) -> None:
    """Count the bytes of a list of texts before it is read: many entries may lead to one and the same text.

    Honest ones do not, so that all together are no longer than the file.

    Args:
        item: the variable.
        name: of the variable.
        view: the record as bytes.

    Raises:
        ClaimError: they claim more.
    """
    if item.size > MOST_TEXTS:
        raise ClaimError(f"{name} claims {item.size} texts")
    total = sum(int(part["length"].sum(dtype=np.uint64)) for part in _descriptors(item, name, view))
    if total > min(MOST_TEXT, view.held):
        raise ClaimError(f"the texts of {name} claim {total} bytes")


def _descriptors(item: h5py.Dataset, name: str, view: View) -> list[np.ndarray[Any, Any]]:
    if not item.size:
        return []
    if item.file.id.get_create_plist().get_sizes() != (8, 8):
        raise ClaimError(f"{name} is not stored as texts are")
    size = item.size * _DESCRIPTOR.itemsize
    if item.chunks is None:
        offset = item.id.get_offset()
        if offset is None:
            raise ClaimError(f"{name} has no texts")
        return [np.frombuffer(view.at(offset, size), _DESCRIPTOR)]
    if item.ndim != 1 or filters(item):
        raise ClaimError(f"{name} is not stored as texts are")
    check_small_chunks(item, name)
    places: list[tuple[int, int]] = []
    item.id.chunk_iter(lambda chunk: places.append((chunk.byte_offset, item.chunks[0] * _DESCRIPTOR.itemsize)))
    return [np.frombuffer(view.at(*place), _DESCRIPTOR) for place in places]


# -- attributes -----------------------------------------------------------------------------------


def attribute(item: Any, name: str) -> Any:
    """Read one attribute.

    Args:
        item: the file, group or variable that has it.
        name: of the attribute.

    Returns:
        Its value.

    Raises:
        ClaimError: its type or size is none that is read.
    """
    known = item.attrs.get_id(name)
    kind = known.get_type()
    if not isinstance(kind, PLAIN):
        raise ClaimError(f"the attribute {name} holds neither numbers nor texts")
    texts = isinstance(kind, h5py.h5t.TypeStringID)
    count = math.prod(known.shape)
    if count > (MOST_AXES if texts else _FIXED) or known.get_storage_size() > _FIXED * (1 if texts else 8):
        raise ClaimError(f"the attribute {name} claims {count} values")
    return item.attrs[name]


def _check_scale(item: Any, name: str) -> None:
    """Check the type of an attribute by which netCDF knows the dimensions: HDF5 falls over some damaged types."""
    kind = item.attrs.get_id(name).get_type()
    if name == "DIMENSION_LIST":
        sound = (
            isinstance(kind, h5py.h5t.TypeVlenID)
            and kind.get_super() == h5py.h5t.STD_REF_OBJ
            and kind.encode()[3] == 0  # a sequence, and nothing that HDF5 does not know
        )
    else:
        sound = (
            isinstance(kind, h5py.h5t.TypeCompoundID)
            and kind.get_nmembers() == 2
            and kind.get_member_type(0) == h5py.h5t.STD_REF_OBJ
            and isinstance(kind.get_member_type(1), h5py.h5t.TypeIntegerID)
        )
    if not sound:
        raise ClaimError(f"the attribute {name} of {item.name} is no list of dimensions")


def check_attributes(item: Any, where: str) -> int:
    """Count and read the attributes, one after the other.

    Args:
        item: the file, group or variable that has them.
        where: its name.

    Returns:
        The bytes of their names and values.

    Raises:
        ClaimError: there are too many, or one that may not be read.
    """
    if len(item.attrs) > MOST_ATTRIBUTES:
        raise ClaimError(f"{where} has {len(item.attrs)} attributes")
    total = 0
    for name in item.attrs:
        if name in ("DIMENSION_LIST", "REFERENCE_LIST"):
            _check_scale(item, name)
            continue
        value = attribute(item, name)
        total += len(name) + (len(value) if isinstance(value, str | bytes) else np.asarray(value).nbytes)
    return total


def parsed(text: Any, name: str) -> dict[str, Any]:
    """Parse a JSON object of bounded size and depth.

    Args:
        text: JSON.
        name: of the attribute, for the message.

    Returns:
        The object.

    Raises:
        ClaimError: it is none, too long, or nested too deep.
    """
    if not isinstance(text, str) or text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise ClaimError(f"its {name} is no JSON text, or too long")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ClaimError(f"its {name} is not JSON") from None
    if not isinstance(found, dict):
        raise ClaimError(f"its {name} is no JSON object")
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        inner = [v for one in level for v in (one.values() if isinstance(one, dict) else one)]
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return found
    raise ClaimError(f"its {name} is nested more than {DEEPEST} deep")
