"""Lay a record out for HDF5: coordinates as dimension scales, variables attached to them, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gradscope.quantities import Quantity
from gradscope.store import schema
from gradscope.store.redo_log import STAMP_BYTES

TEXT = h5py.string_dtype("utf-8")
SMALL_CHUNK = 64
SMALL: dict[str, Any] = {"chunks": (SMALL_CHUNK,), "fletcher32": True}
FIXED_CHUNK = 4096
CHUNK_BYTES, MOST_ROWS, SHORT_ROWS, FEWEST_ROWS = 1 << 20, 1024, 64, 16

# `group` is a dimension without labels, and a variable along `parameter`: netCDF-4's own way to
# have both in one file is this scale name for the one and this prefix for the other.
STAMPED = np.dtype(f"i{STAMP_BYTES}")
_NO_LABELS = "This is a netCDF dimension but not a netCDF variable.{:10d}"
GROUP_VARIABLE = "_nc4_non_coord_group"


@dataclass(frozen=True)
class Axes:
    """Labels along every dimension but ``step``; an empty one is left out of the file.

    Attributes:
        parameters: their names.
        modules: their names.
        groups: number of parameter groups.
        bins: lower edges of the bins of histograms.
        units: their names.
    """

    parameters: Sequence[str]
    modules: Sequence[str]
    groups: int
    bins: NDArray[Any] | None = None
    units: Sequence[str] | None = None


def lay_out(root: h5py.File, axes: Axes) -> None:
    """Create the coordinates and the groups ``events`` and ``epochs`` of a new record."""
    scale(root, schema.STEP, np.empty(0, dtype=np.int64), growing=True)
    scale(root, schema.PARAMETER, list(axes.parameters))
    if axes.modules:
        scale(root, schema.MODULE, list(axes.modules))
    if axes.bins is not None:
        scale(root, schema.BIN, np.asarray(axes.bins, dtype=np.float64))
    if axes.units:
        scale(root, schema.UNIT, list(axes.units))
    # Nobody reads the values of such a scale: they are the place of the stamp, which never moves.
    unlabelled = root.create_dataset(schema.GROUP, data=np.zeros(axes.groups, dtype=STAMPED))
    unlabelled.make_scale(_NO_LABELS.format(axes.groups))
    events = root.create_group("events", track_order=True)
    scale(events, "event", np.empty(0, dtype=np.int64), growing=True)
    for name, dtype, fill in (("step", np.int64, -1), ("kind", TEXT, ""), ("text", TEXT, "")):
        how = SMALL | {"fletcher32": dtype is not TEXT}  # HDF5 has no filters for texts
        column = events.create_dataset(name, (0,), dtype, maxshape=(None,), fillvalue=fill, **how)
        column.dims[0].attach_scale(events["event"])
        column.attrs["long_name"] = f"{name} of the event"
    epochs = root.create_group("epochs", track_order=True)
    scale(epochs, "epoch", np.empty(0, dtype=np.int64), growing=True)


def stamp_place(root: h5py.File) -> int | None:
    """Return where a record keeps the stamp of its latest transaction; None in an older one, which has none."""
    item = root[schema.GROUP]
    offset: int | None = item.id.get_offset() if item.dtype == STAMPED and len(item) else None
    return offset


def scale(parent: h5py.Group, name: str, values: Any, *, growing: bool = False) -> h5py.Dataset:
    """Create a coordinate."""
    if isinstance(values, list):
        made = parent.create_dataset(name, data=values, dtype=TEXT)
    elif growing:
        rows = MOST_ROWS if name == schema.STEP and parent.name == "/" else SMALL_CHUNK
        packed = {"shuffle": True, "compression": "gzip", "compression_opts": 1} if rows == MOST_ROWS else {}
        made = parent.create_dataset(name, data=values, maxshape=(None,), chunks=(rows,), fletcher32=True, **packed)
    else:
        made = parent.create_dataset(name, data=values, **checked(len(values)))
    made.make_scale(name)
    made.attrs["long_name"] = schema.COORDINATES.get(name, name)
    made.attrs["units"] = "1"
    return made


def fixed(root: h5py.File, variable: Quantity, data: NDArray[Any]) -> h5py.Dataset:
    """Create a variable that does not grow, such as ``numel``."""
    made = root.create_dataset(
        stored_name(variable.name), data=data.astype(stored_type(variable)), **checked(len(data))
    )
    return _described(root, made, variable)


def checked(entries: int) -> dict[str, Any]:
    """Return how to store a short list so that it has checksums."""
    return {"chunks": (min(entries, FIXED_CHUNK),), "fletcher32": True} if entries else {}


def growing(root: h5py.File, variable: Quantity, filters: dict[str, Any]) -> h5py.Dataset:
    """Create a variable along ``step``, without rows yet; a run that plans few steps has chunks of few rows."""
    dtype = stored_type(variable)
    width = tuple(root[dim].shape[0] for dim in variable.dims[1:])
    fill: Any = np.nan if dtype.kind == "f" else 0
    made = root.create_dataset(
        variable.name,
        (0, *width),
        dtype,
        maxshape=(None, *width),
        chunks=(chunk_rows(dtype.itemsize * int(np.prod(width)), _planned(root)), *(max(1, n) for n in width)),
        fillvalue=fill,
        **filters,
    )
    if dtype.kind == "f":
        made.attrs["_FillValue"] = np.array([fill], dtype=dtype)
    return _described(root, made, variable)


def _planned(root: h5py.File) -> int | None:
    planned = int(root.attrs.get("horizon", -1))
    return planned if planned > 0 else None


def chunk_rows(row_bytes: int, planned: int | None = None) -> int:
    """Compute the rows of a chunk: a power of two, about a megabyte, so that a variable is read in few large pieces.

    The unfinished chunk takes its whole room in the file, so a run that plans fewer rows gets smaller ones.

    Args:
        row_bytes: of one row.
        planned: rows at most, None where nothing is known of them.

    Returns:
        Rows of a chunk.
    """
    rows = MOST_ROWS
    while planned is not None and rows > SHORT_ROWS and rows // 2 >= planned:
        rows //= 2
    while rows > FEWEST_ROWS and rows * row_bytes > CHUNK_BYTES:
        rows //= 2
    return rows


def epoch_metric(epochs: h5py.Group, name: str) -> h5py.Dataset:
    """Create a metric along ``epoch``, NaN so far."""
    made = epochs.create_dataset(name, epochs["epoch"].shape, np.float64, maxshape=(None,), fillvalue=np.nan, **SMALL)
    made.dims[0].attach_scale(epochs["epoch"])
    made.attrs["long_name"], made.attrs["units"] = name, "1"
    made.attrs["_FillValue"] = np.array([np.nan])
    return made


def stored_name(name: str) -> str:
    """Return the name of a variable inside the file."""
    return GROUP_VARIABLE if name == schema.GROUP else name


def stored_type(variable: Quantity) -> np.dtype[Any]:
    """Return the type of a variable in the file: HDF5 has no bool that netCDF knows, so int8, marked as by xarray."""
    return np.dtype("int8" if variable.dtype == "bool" else variable.dtype)


def _described(root: h5py.File, made: h5py.Dataset, variable: Quantity) -> h5py.Dataset:
    for axis, dim in enumerate(variable.dims):
        made.dims[axis].attach_scale(root[dim])
    made.attrs["long_name"] = variable.long_name
    made.attrs["units"] = variable.units
    if variable.dtype == "bool":
        made.attrs["dtype"] = "bool"
    return made
