"""Opens a record, finished, running or left by a killed process, as an `xarray.Dataset`. Never writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from h5netcdf.dimensions import Dimension
from xarray.backends import H5NetCDFStore

from gradscope.store import redo_log, schema
from gradscope.store.bounds import attribute
from gradscope.store.guard import DAMAGE, damaged, guarded
from gradscope.store.sanity import refuse_hostile
from gradscope.store.snapshot import Overlay, looked_at, snapshot
from gradscope.types import InputError, RecordNotFoundError

NEEDED_ATTRIBUTES = ("schema_version", "gradscope_version", "status", "config", "capture", "penalty", "rows")


def check(path: str | os.PathLike[str]) -> Path:
    """The path of a record, or an `InputError` that says what is there instead."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a record, such as {path / 'run.h5'}")
    if not path.exists():
        raise RecordNotFoundError(f"there is no file {path}; give the path of a record that gradscope wrote")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a record that gradscope wrote")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if redo_log.pending(path) is not None:
        return path
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes); expected a record that gradscope wrote")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an HDF5 file; expected a record that gradscope wrote")
    return path


def open_run(
    path: str | os.PathLike[str], group: str | None = None, *, chunks: int | dict[str, int] | str | None = None
) -> xr.Dataset:
    """A record as a lazy `xarray.Dataset`, cut to the rows that were published.

    ``group``: ``"epochs"`` or ``"events"`` for those tables. ``chunks``: Dask arrays in such pieces, for what does
    not fit into memory (needs Dask; ``"auto"`` as in xarray). Close it as any dataset. A record that is being
    written stays as it was when it was opened. Raises `RecordNotFoundError`, or `InputError` for anything
    that is not a record.
    """
    path = check(path)
    if group not in (None, "epochs", "events"):
        raise InputError(f"group is {group!r}; expected 'epochs' or 'events'")
    try:
        source, rows = _source(path)
    except DAMAGE as error:
        raise _told(path, error) from None
    try:
        dataset = guarded(path, _opened(source, group), source)
        if chunks is not None:
            dataset = dataset.chunk(chunks)
        if group is None:
            dataset = dataset.isel({schema.STEP: slice(0, rows)})
    except DAMAGE as error:
        if isinstance(source, Overlay):
            source.close()
        raise _told(path, error) from None
    if isinstance(source, Overlay):
        _close_with(dataset, source)
    return dataset


class _Sized(Dimension):  # type: ignore[misc]
    """A dimension that knows its size.

    That of h5netcdf goes through every attached variable each time that it is asked for an unlimited dimension's
    size, and it is asked once a variable and axis: a second for a full record, four fifths of opening it.
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


def events(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events of a record: ``{"step", "kind", "text"}``, oldest first."""
    with open_run(path, "events") as table:
        columns = [table[name].values for name in ("step", "kind", "text")]
    return [
        {"step": int(step), "kind": str(kind), "text": str(text)} for step, kind, text in zip(*columns, strict=True)
    ]


def epoch_metrics(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The metrics given to `Recording.epoch`, with ``epoch`` itself."""
    with open_run(path, "epochs") as table:
        return {str(name): np.asarray(table[name].values) for name in table.variables}


def _source(path: Path) -> tuple[Path | Overlay, int]:
    """What to read, and the rows published: the path where nobody writes, a snapshot where a log says otherwise."""

    def look(file: h5py.File, view: Overlay) -> int:
        return _identify(path, file, view)

    if redo_log.beside(path).exists():
        return snapshot(path, look)
    with Overlay(path, log=False) as view:
        return path, looked_at(view, look)


def _told(path: Path, error: BaseException) -> InputError:
    return error if isinstance(error, InputError) else damaged(path, error)


def _close_with(dataset: xr.Dataset, source: Overlay) -> None:
    """Closing the dataset closes the file object under it."""
    inner = dataset._close

    def close() -> None:
        if inner is not None:
            inner()
        source.close()

    dataset.set_close(close)


def _identify(path: Path, file: h5py.File, view: Overlay) -> int:
    """Refuse what somebody else wrote, records of a later gradscope, and hostile files. The rows published."""
    missing = [name for name in NEEDED_ATTRIBUTES if name not in file.attrs]
    if missing:
        raise InputError(
            f"{path} is HDF5, but not a gradscope record (it has no attribute {missing[0]!r}); "
            f"expected a file that gradscope.record wrote"
        )
    version = int(attribute(file, "schema_version"))
    if version > schema.SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, this gradscope reads up to {schema.SCHEMA_VERSION}; "
            f"install gradscope {attribute(file, 'gradscope_version')} or later"
        )
    refuse_hostile(path, file, view)
    return min(int(file.attrs["rows"]), len(file[schema.STEP]))
