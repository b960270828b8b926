"""Opens a record, finished, running or left by a killed process, as an `xarray.Dataset`. Never writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from gradscope.store import schema
from gradscope.types import InputError, RecordNotFoundError

NEEDED_ATTRIBUTES = ("schema_version", "gradscope_version", "status", "config", "capture", "penalty")


def check(path: str | os.PathLike[str]) -> Path:
    """The path of a record, or an `InputError` that says what is there instead."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a record, such as {path / 'run.h5'}")
    if not path.exists():
        raise RecordNotFoundError(f"there is no file {path}; give the path of a record that gradscope wrote")
    try:
        size = path.stat().st_size
        recognised = h5py.is_hdf5(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not size:
        raise InputError(f"{path} is empty (0 bytes); expected a record that gradscope wrote")
    if not recognised:
        raise InputError(f"{path} is not an HDF5 file; expected a record that gradscope wrote")
    return path


def open_run(path: str | os.PathLike[str], group: str | None = None) -> xr.Dataset:
    """A record as a lazy `xarray.Dataset`, cut to the rows that were published.

    ``group``: ``"epochs"`` or ``"events"`` for those tables. Close it as any dataset. Raises
    `RecordNotFoundError`, or `InputError` for anything that is not a record.
    """
    path = check(path)
    locking = _identify(path)
    if group not in (None, "epochs", "events"):
        raise InputError(f"group is {group!r}; expected 'epochs' or 'events'")
    try:
        dataset = xr.open_dataset(path, engine="h5netcdf", group=group, driver_kwds={"locking": locking})
        if group is None:
            rows = min(int(dataset.attrs["rows"]), dataset.sizes[schema.STEP])
            dataset = dataset.isel({schema.STEP: slice(0, rows)})
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is a damaged record: {str(error).splitlines()[0]}") from None
    return dataset


def _identify(path: Path) -> bool | None:
    """Refuse HDF5 files that somebody else wrote, and records of a later gradscope; the locking to open with.

    Without HDF5's lock, because a writer may be at work and reading must not disturb it; with its default
    (None) where the writer is this very process, for HDF5 wants the two to be alike.
    """
    locking: bool | None = False
    try:
        try:
            file = h5py.File(path, "r", locking=False)
        except OSError as error:
            if "locking flag" not in str(error):
                raise
            locking = None
            file = h5py.File(path, "r")
        with file:
            attributes = dict(file.attrs)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is a damaged HDF5 file: {str(error).splitlines()[0]}") from None
    missing = [name for name in NEEDED_ATTRIBUTES if name not in attributes]
    if missing:
        raise InputError(
            f"{path} is HDF5, but not a gradscope record (it has no attribute {missing[0]!r}); "
            f"expected a file that gradscope.record wrote"
        )
    version = int(attributes["schema_version"])
    if version > schema.SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, this gradscope reads up to {schema.SCHEMA_VERSION}; "
            f"install gradscope {attributes['gradscope_version']} or later"
        )
    return locking


def events(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events of a record: ``{"step", "kind", "text"}``, oldest first."""
    with open_run(path, "events") as table:
        return [
            {"step": int(step), "kind": str(kind), "text": str(text)}
            for step, kind, text in zip(table["step"].values, table["kind"].values, table["text"].values, strict=True)
        ]


def epoch_metrics(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The metrics given to `Recording.epoch`, with ``epoch`` itself."""
    with open_run(path, "epochs") as table:
        return {str(name): np.asarray(table[name].values) for name in table.variables}
