"""Record as HDF5 holds it in memory between two commits: layout, rows, events, epochs, attributes."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import weakref
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil
from numpy.typing import NDArray

from gradscope.store import layout, schema
from gradscope.store.bounds import MOST_LINKS
from gradscope.store.growing_variables import Column, bits_for, publish
from gradscope.store.layout import Axes
from gradscope.store.pending import Pending
from gradscope.store.storage import Storage
from gradscope.store.transactional import TransactionalFile
from gradscope.types import InputError

#: Growing variables of a record; with the fixed ones they are no more than a reader looks at.
MOST_COLUMNS = MOST_LINKS - 20


class InMemoryRecord:
    """HDF5's view of one open record. Nothing here reaches the disk; that is `TransactionalFile.commit`.

    Args:
        file: what HDF5 writes into.
        create: a new record.
        storage: how rows are filtered.

    Attributes:
        rows: that it holds.
    """

    def __init__(self, file: TransactionalFile, *, create: bool, storage: Storage) -> None:
        self._file = file
        self._root = h5py.File(file, "w" if create else "r+", track_order=True)
        _OPEN.add(self)
        compression = storage.compression
        self._filters: dict[str, Any] = {"fletcher32": True}
        if compression:
            self._filters |= {"shuffle": True, "compression": compression}
        if compression == "gzip":
            self._filters["compression_opts"] = 1
        self._digits = storage.digits
        self._columns: dict[str, Column] = {}
        self._epochs: dict[int, int] = {}
        self._sizes: dict[str, int] = {}  # of the dimensions, so that a check asks HDF5 nothing
        self.rows = 0
        self._full = False  # of names

    # -- beginning --------------------------------------------------------------------------------

    def lay_out(self, axes: Axes, static: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Lay out a new record, without rows."""
        self._root.attrs["schema_version"] = schema.SCHEMA_VERSION
        self._root.attrs["rows"] = 0
        self._root.attrs["status"] = "running"
        self._set_attributes(attributes)
        layout.lay_out(self._root, axes)
        for name, values in static.items():
            layout.fixed(self._root, schema.variable(name), np.asarray(values))
        self._columns[schema.STEP] = Column(self._root[schema.STEP])
        self._note_sizes()
        self._root.flush()
        self._find_stamp(known=False)

    def _find_stamp(self, known: bool) -> None:
        if (place := layout.stamp_place(self._root)) is not None:
            self._file.stamped(place, known)

    def continue_at(self, step: int | None, keep_later: bool) -> tuple[int, int]:
        """Continue a record.

        Args:
            step: the one that comes next, None for that after the last row.
            keep_later: keep the rows from ``step`` on.

        Returns:
            Rows kept, and rows dropped.
        """
        self._find_stamp(known=True)
        rows = min(int(self._root.attrs["rows"]), len(self._root[schema.STEP]))
        steps = self._root[schema.STEP][:rows]
        later = int((steps >= step).sum()) if step is not None else 0
        kept = rows if keep_later or not later else int(np.argmax(steps >= step))
        for name, dataset in self._root.items():
            if isinstance(dataset, h5py.Dataset) and dataset.maxshape[:1] == (None,):
                self._columns[name] = Column(dataset, self._keep_bits())
                self._columns[name].load(kept)
        self._note_sizes()
        self.rows = kept
        publish(list(self._columns.values()))
        self._epochs = {int(epoch): i for i, epoch in enumerate(self._root["epochs"]["epoch"][:])}
        self._root.attrs["rows"] = kept
        self._root.attrs["status"] = "running"
        return kept, rows - kept

    def differences(self, axes: Axes, static: Mapping[str, NDArray[Any]], config: Any) -> str | None:
        """Describe what keeps a run from going on in this record; None: nothing."""
        for name, given in ((schema.PARAMETER, axes.parameters), (schema.MODULE, axes.modules)):
            here = self._root[name].asstr()[:].tolist() if name in self._root else []
            if here != list(given):
                other = sorted(set(here) ^ set(given)) or list(given)
                return f"its {name}s are others than those of the model (such as {other[0]!r})"
        if self._root[schema.GROUP].shape != (axes.groups,):
            return f"it has {self._root[schema.GROUP].shape[0]} parameter groups, the optimizers have {axes.groups}"
        if "numel" in static and (self._root["numel"][:] != static["numel"]).any():
            where = int(np.argmax(self._root["numel"][:] != static["numel"]))
            return f"the shape of {axes.parameters[where]} is another one in the model"
        try:
            shapes = json.loads(self._root.attrs["config"]).get("shapes")
        except ValueError:
            return "its config cannot be read"
        if isinstance(config, dict) and shapes is not None and shapes != config.get("shapes", shapes):
            return f"its shapes are others than those of the model: {shapes}"
        return None

    # -- going on ---------------------------------------------------------------------------------

    def check(self, name: str, values: NDArray[Any], rows: int) -> None:
        """Check that a variable of this name can take an array.

        Args:
            name: of the variable.
            values: the array.
            rows: that it should have.

        Raises:
            InputError: it cannot.
        """
        variable = schema.variable(name)
        missing = [dim for dim in variable.dims[1:] if dim not in self._sizes]
        if missing:
            raise InputError(f"{name} needs the dimension {missing[0]}, which this record was opened without")
        expected = (rows, *(self._sizes[dim] for dim in variable.dims[1:]))
        if values.shape != expected:
            raise InputError(f"{name} has the shape {values.shape}; expected {expected}")

    def write(self, pending: Pending) -> None:
        """Write what was pending."""
        if pending.rows:
            self._write_rows(pending)
        if pending.dropped.count:
            d = pending.dropped
            text = f"{d.count} rows (steps {d.first} to {d.last}) were lost: the disk took nothing, and memory ran out"
            self._write_events([(d.last, "rows_lost", text)])
        if pending.events:
            self._write_events(pending.events)
        if pending.epochs:
            self._write_epochs(pending.epochs)
        self._set_attributes(pending.attributes)
        for name, values in pending.static.items():
            self._root[layout.stored_name(name)][...] = values
        self._root.flush()

    def finish(self, status: str) -> None:
        """Filter the unfinished chunks, note the status, close."""
        for column in self._columns.values():
            column.finish()
        publish(list(self._columns.values()))
        self._root.attrs["status"] = status
        self._root.close()

    def abandon(self) -> None:
        """Close without regard to what it holds."""
        self._root.close()

    def _note_sizes(self) -> None:
        dims = (schema.PARAMETER, schema.MODULE, schema.GROUP, schema.BIN, schema.UNIT)
        self._sizes = {dim: len(self._root[dim]) for dim in dims if dim in self._root}

    def _keep_bits(self) -> int | None:
        return None if self._digits is None else bits_for(self._digits)

    def _write_rows(self, pending: Pending) -> None:
        arrays = pending.columns()
        new = [name for name in arrays if name not in self._columns]
        if (left_out := new[max(0, MOST_COLUMNS - len(self._columns)) :]) and not self._full:
            self._full = True
            text = f"a record holds {MOST_COLUMNS} names; {left_out[0]} and those after it are not in it"
            pending.events.append((int(arrays[schema.STEP][0]), "warning", text))
        new = [name for name in new if name not in left_out]
        for name in new:
            self._columns[name] = self._new_column(name)
        if new:
            # HDF5 places its own structures when it flushes: before the rows, where a cut-off file still has them.
            self._root.flush()
        for name, column in self._columns.items():
            column.extend(arrays.get(name), pending.rows)
        self.rows += pending.rows
        publish(list(self._columns.values()))
        self._root.attrs["rows"] = self.rows

    def _new_column(self, name: str) -> Column:
        dataset = layout.growing(self._root, schema.variable(name), self._filters)
        if self._digits is not None and dataset.dtype == np.float32:
            dataset.attrs["significant_digits"] = self._digits
            dataset.attrs["largest_relative_error"] = 2.0 ** -(bits_for(self._digits) + 1)
        column = Column(dataset, self._keep_bits())
        column.rows = self.rows
        return column

    def _write_events(self, events: list[tuple[int, str, str]]) -> None:
        group = self._root["events"]
        start = len(group["event"])
        columns = {
            "event": np.arange(start, start + len(events)),
            "step": [step for step, _, _ in events],
            "kind": [kind for _, kind, _ in events],
            "text": [text for _, _, text in events],
        }
        for name, values in columns.items():
            group[name].resize(start + len(events), axis=0)
            group[name][start:] = values

    def _write_epochs(self, epochs: Mapping[int, Mapping[str, float]]) -> None:
        """Write all metrics at once: each touch of a table costs as much as thousands of its entries."""
        group = self._root["epochs"]
        begun = len(self._epochs)
        for epoch in epochs:
            self._epochs.setdefault(epoch, len(self._epochs))
        names = dict.fromkeys(name for metrics in epochs.values() for name in metrics)
        for name in (name for name in names if name not in group and len(group) < MOST_LINKS):
            layout.epoch_metric(group, name)
        places = [self._epochs[epoch] for epoch in epochs]
        first = min(places)
        for name, item in group.items():
            item.resize(len(self._epochs), axis=0)
            values = item[first:]
            if name == "epoch":
                values[begun - first :] = list(self._epochs)[begun:]
            for place, metrics in zip(places, epochs.values(), strict=True):
                if name in metrics:
                    values[place - first] = metrics[name]
            item[first:] = values

    def _set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            self._root.attrs[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


_OPEN: weakref.WeakSet[InMemoryRecord] = weakref.WeakSet()


def _close_copies() -> None:
    """Close what a forked child has copies of, in memory alone, while its interpreter is there.

    HDF5 would do so after the interpreter's end, and call back into it: a segmentation fault. Not where the fork came
    in the middle of a call of another thread, which holds h5py's lock for ever here.
    """
    if not phil.acquire(blocking=False):
        return
    try:
        for image in list(_OPEN):
            with contextlib.suppress(Exception):
                image._root.close()
    finally:
        phil.release()


os.register_at_fork(after_in_child=lambda: atexit.register(_close_copies))
