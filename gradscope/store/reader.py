"""Open a record, finished, running or left by a killed process, as an `xarray.Dataset`: all that needs xarray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xarray as xr
from h5netcdf.dimensions import Dimension
from xarray.backends import H5NetCDFStore

from gradscope.store import schema
from gradscope.store.guard import guarded
from gradscope.store.record_source import check, source_of, told
from gradscope.store.regular import DAMAGE
from gradscope.store.snapshot import Overlay
from gradscope.types import InputError


def open_run(
    path: str | os.PathLike[str] | xr.Dataset,
    group: str | None = None,
    *,
    chunks: int | dict[str, int] | str | None = None,
) -> xr.Dataset:
    """Open a record as a lazy `xarray.Dataset`, cut to the rows that were published.

    A record that is being written stays as it was when it was opened. Close it as any dataset.

    Args:
        path: of the record; a dataset is returned as it is.
        group: ``"epochs"`` or ``"events"`` for those tables.
        chunks: Dask arrays in such pieces, for what does not fit into memory (needs Dask; ``"auto"`` as in xarray).

    Returns:
        The dataset.

    Raises:
        RecordNotFoundError: there is no such file.
        InputError: it is no record, or damaged.
    """  # noqa: DOC501, DOC502 - made or raised by what it calls
    if isinstance(path, xr.Dataset):
        return path
    path = check(path)
    if group not in (None, "epochs", "events"):
        raise InputError(f"group is {group!r}; expected 'epochs' or 'events'")
    try:
        source, rows = source_of(path)
    except DAMAGE as error:
        raise told(path, error) from None
    try:
        dataset = guarded(path, _opened(source, group), source)
        if chunks is not None:
            dataset = dataset.chunk(chunks)
        if group is None:
            dataset = dataset.isel({schema.STEP: slice(0, rows)})
    except DAMAGE as error:
        if isinstance(source, Overlay):
            source.close()
        raise told(path, error) from None
    if isinstance(source, Overlay):
        _close_with(dataset, source)
    return dataset


class _Sized(Dimension):  # type: ignore[misc]
    """Dimension that knows its size.

    That of h5netcdf goes through every attached variable each time that it is asked for an unlimited dimension's size,
    and it is asked once a variable and axis: a second for a full record, four fifths of opening it.
    """

    size: int = 0


def _opened(source: Path | Overlay, group: str | None) -> xr.Dataset:
    options: dict[str, Any] = {} if isinstance(source, Overlay) else {"driver_kwds": {"locking": False}}
    store = H5NetCDFStore.open(source, group=group, decode_vlen_strings=True, **options)
    for dimension in store.ds.dimensions.values():
        size = dimension.size
        dimension.__class__ = _Sized
        dimension.size = size
    # NaN marks what is missing already: masking it once more would cost two copies of everything that is read.
    dataset = xr.open_dataset(store, mask_and_scale=False, cache=False)
    if isinstance(source, Path):
        dataset.encoding["source"] = str(source)
    return dataset


def _close_with(dataset: xr.Dataset, source: Overlay) -> None:
    """Close the file object under a dataset together with it."""
    inner = dataset._close

    def close() -> None:
        if inner is not None:
            inner()
        source.close()

    dataset.set_close(close)
