"""Writes one record: plain HDF5 that xarray opens as it is.

Rows are held back until there are `FLUSH_ROWS` of them or the oldest is a second old, then written
and flushed together; the root attribute ``rows`` is the published count, and a reader looks no further.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gradscope.store import schema
from gradscope.types import InputError, RecordExistsError

FLUSH_ROWS = 64
FLUSH_SECONDS = 1.0
CHUNK_ROWS = 256

TEXT = h5py.string_dtype("utf-8")


def claim(path: Path, mode: str) -> None:
    """Refuse a path that cannot become a record, before anything is touched."""
    if mode == "append":
        raise InputError("mode='append' is not there yet: give another path, or mode='overwrite'")
    if mode not in ("create", "overwrite"):
        raise InputError(f"mode is {mode!r}; expected 'create' or 'overwrite'")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the path of a file to write")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if path.exists():
        if mode == "create":
            raise RecordExistsError(f"{path} exists already; give another path, or mode='overwrite' to replace it")
        if not _is_record(path):
            raise InputError(f"{path} is not a record, and mode='overwrite' replaces records only; delete it first")


class Writer:
    """One open record. ``coordinates``: names along parameter and module. Rows come in blocks."""

    def __init__(
        self,
        path: Path,
        *,
        parameters: Sequence[str],
        modules: Sequence[str],
        groups: int,
        static: Mapping[str, NDArray[Any]],
        attributes: Mapping[str, Any],
        mode: str = "create",
    ) -> None:
        claim(path, mode)
        self.path = path
        self.rows = 0
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._oldest = 0.0
        try:
            self._file = h5py.File(path, "x" if mode == "create" else "w", track_order=True)
        except OSError as error:
            raise InputError(f"cannot write {path}: {_reason(error)}") from None
        self._sets: dict[str, h5py.Dataset] = {}
        self._events = 0
        self._epochs: dict[int, int] = {}
        try:
            self._lay_out(parameters, modules, groups, static, attributes)
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    # -- layout -----------------------------------------------------------------------------------

    def _lay_out(
        self,
        parameters: Sequence[str],
        modules: Sequence[str],
        groups: int,
        static: Mapping[str, NDArray[Any]],
        attributes: Mapping[str, Any],
    ) -> None:
        root = self._file
        root.attrs["schema_version"] = schema.SCHEMA_VERSION
        root.attrs["rows"] = 0
        root.attrs["status"] = "running"
        for name, value in attributes.items():
            self.set_attribute(name, value)
        self._scale(root, schema.STEP, np.empty(0, dtype=np.int64), growing=True, long_name="optimizer step")
        self._scale(root, schema.PARAMETER, list(parameters), long_name="parameter")
        if modules:
            self._scale(root, schema.MODULE, list(modules), long_name="module")
        # `group` is a dimension without labels, and a variable along `parameter`: netCDF-4's own way to
        # have both in one file is this scale name for the one and the prefix below for the other.
        unlabelled = root.create_dataset(schema.GROUP, data=np.zeros(groups, dtype=np.float32))
        unlabelled.make_scale(f"This is a netCDF dimension but not a netCDF variable.{groups:10d}")
        for name, values in static.items():
            self._variable(schema.variable(name), np.asarray(values))
        events = root.create_group("events", track_order=True)
        self._scale(events, "event", np.empty(0, dtype=np.int64), growing=True, long_name="event")
        for name, dtype, fill in (("step", np.int64, -1), ("kind", TEXT, ""), ("text", TEXT, "")):
            column = events.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(64,), fillvalue=fill)
            column.dims[0].attach_scale(events["event"])
            column.attrs["long_name"] = f"{name} of the event"
        epochs = root.create_group("epochs", track_order=True)
        self._scale(epochs, "epoch", np.empty(0, dtype=np.int64), growing=True, long_name="epoch")
        root.flush()

    def _scale(self, parent: h5py.Group, name: str, values: Any, *, growing: bool = False, long_name: str) -> None:
        if isinstance(values, list):
            scale = parent.create_dataset(name, data=values, dtype=TEXT)
        else:
            shape = {"maxshape": (None,), "chunks": (CHUNK_ROWS,)} if growing else {}
            scale = parent.create_dataset(name, data=values, **shape)
        scale.make_scale(name)
        scale.attrs["long_name"] = long_name
        scale.attrs["units"] = "1"

    def _variable(self, variable: schema.Variable, data: NDArray[Any] | None = None) -> h5py.Dataset:
        dtype = np.dtype("int8" if variable.dtype == "bool" else variable.dtype)
        if data is not None:
            made = self._file.create_dataset(_stored_name(variable.name), data=data.astype(dtype))
        else:
            width = tuple(self._file[d].shape[0] for d in variable.dims[1:])
            fill: Any = np.nan if dtype.kind == "f" else 0
            made = self._file.create_dataset(
                variable.name,
                (self.rows, *width),
                dtype,
                maxshape=(None, *width),
                chunks=(CHUNK_ROWS, *(max(1, n) for n in width)),
                fillvalue=fill,
            )
            if dtype.kind == "f":
                made.attrs["_FillValue"] = np.array([fill], dtype=dtype)
        for axis, dim in enumerate(variable.dims):
            made.dims[axis].attach_scale(self._file[dim])
        made.attrs["long_name"] = variable.long_name
        made.attrs["units"] = variable.units
        if variable.dtype == "bool":
            made.attrs["dtype"] = "bool"  # xarray's own convention: it decodes this to bool
        return made

    # -- rows -------------------------------------------------------------------------------------

    def append(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Take a block of rows; every array has the same first length."""
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append(dict(block))
        held = sum(len(b["step"]) for b in self._waiting)
        if held >= FLUSH_ROWS or time.monotonic() - self._oldest >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held back and publish it."""
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            for name in block:
                if name != schema.STEP and name not in self._sets:
                    self._sets[name] = self._variable(schema.variable(name))
        more = sum(len(block["step"]) for block in waiting)
        if more:
            start, self.rows = self.rows, self.rows + more
            self._file[schema.STEP].resize(self.rows, axis=0)
            self._file[schema.STEP][start:] = np.concatenate([b["step"] for b in waiting])
            for name, dataset in self._sets.items():
                dataset.resize(self.rows, axis=0)
                at = start
                for block in waiting:
                    length = len(block["step"])
                    if name in block:
                        dataset[at : at + length] = block[name]
                    at += length
            self._file.attrs["rows"] = self.rows
        self._file.flush()

    # -- everything else --------------------------------------------------------------------------

    def event(self, step: int, kind: str, text: str) -> None:
        """Add one event."""
        group = self._file["events"]
        self._events += 1
        for name, value in (("event", self._events - 1), ("step", step), ("kind", kind), ("text", text)):
            group[name].resize(self._events, axis=0)
            group[name][-1] = value

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Metrics of an epoch; a second call for the same epoch adds to the first."""
        group = self._file["epochs"]
        if epoch not in self._epochs:
            self._epochs[epoch] = len(self._epochs)
            for name in group:
                group[name].resize(len(self._epochs), axis=0)
            group["epoch"][-1] = epoch
        for name, value in metrics.items():
            if name not in group:
                column = group.create_dataset(
                    name, (len(self._epochs),), np.float64, maxshape=(None,), chunks=(64,), fillvalue=np.nan
                )
                column.dims[0].attach_scale(group["epoch"])
                column.attrs["long_name"], column.attrs["units"] = name, "1"
                column.attrs["_FillValue"] = np.array([np.nan])
            group[name][self._epochs[epoch]] = value

    def set_attribute(self, name: str, value: Any) -> None:
        """A root attribute; a dictionary is kept as JSON."""
        self._file.attrs[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value

    def set_static(self, name: str, values: NDArray[Any]) -> None:
        """Replace a (parameter) variable, known better now than at the start."""
        self._file[_stored_name(name)][...] = values

    def close(self, status: str) -> None:
        """Write the rest, the final status, and close."""
        if not self._file:
            return
        try:
            self.flush()
            self._file.attrs["status"] = status
        finally:
            with contextlib.suppress(OSError):
                self._file.close()


def _is_record(path: Path) -> bool:
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "gradscope_version" in file.attrs
    except OSError:  # being written, or damaged: ours to replace as far as can be told
        return True


def _stored_name(name: str) -> str:
    return "_nc4_non_coord_group" if name == schema.GROUP else name


def _reason(error: OSError) -> str:
    text = str(error)
    if "lock" in text:
        return "another process is writing it"
    return (error.strerror or text).splitlines()[0]
