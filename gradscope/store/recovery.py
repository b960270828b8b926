"""Save what can still be read of a record into a new file, and say what is missing. The original is only read."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gradscope import checks
from gradscope.store import chunks, redo_log, regular, schema
from gradscope.store.bounds import (
    LARGEST_READ,
    MOST_ATTRIBUTES,
    MOST_LINKS,
    attribute,
    check_claims,
    check_rows,
    claimed,
    parsed,
)
from gradscope.store.layout import GROUP_VARIABLE, MOST_ROWS
from gradscope.store.recovery_report import Recovery
from gradscope.store.regular import DAMAGE
from gradscope.store.snapshot import Overlay
from gradscope.store.storage import Storage
from gradscope.store.validation import STATUS, check_array, check_count, member
from gradscope.store.writer import Writer
from gradscope.store.writer_lock import writer_of
from gradscope.types import InputError, RecordExistsError, RecordNotFoundError

_STAND_INS: dict[str, Any] = {"gradscope_version": "unknown", "penalty": "l2", "config": {}, "capture": {}}
_OURS = ("schema_version", "rows", "status")


def recover(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Recovery:
    """Save a record left by a killed process, or damaged since, into another file.

    A complete transaction in the log counts, an incomplete one is dropped.

    Args:
        path: of the record.
        output: of the new file; beside the record if not given.

    Returns:
        What was saved, and what is missing.

    Raises:
        RecordNotFoundError: there is no such file.
        RecordExistsError: the output exists.
        InputError: there is nothing to save, or the record is being written.
    """  # noqa: DOC501, DOC502 - made or raised by what it calls
    checks.on_this_machine(path, "a record is recovered")
    path = Path(path)
    output = path.with_name(f"{path.stem}.recovered{path.suffix or '.h5'}") if output is None else Path(output)
    _refuse(path, output)
    log = redo_log.beside(path)
    complete = redo_log.pending(path) is not None
    report = Recovery(path, output, ("replayed" if complete else "incomplete: dropped") if log.exists() else "none")
    try:
        view = Overlay(path, _length_of_hdf5(path))
    except OSError as error:
        raise regular.cannot_read(path, error) or InputError(f"cannot read {path}: {error.strerror}") from None
    view.limit = LARGEST_READ
    try:
        with h5py.File(view, "r") as file:
            _Recoverer(file, report, view).write()
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"nothing can be saved of {path}: {said}; look for a copy of it") from None
    finally:
        view.close()
    return report


def _refuse(path: Path, output: Path) -> None:
    if not path.exists():
        raise RecordNotFoundError(f"there is no file {path}; give the path of a record that gradscope wrote")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a record that gradscope wrote")
    if output.exists():
        raise RecordExistsError(f"{output} exists already; give another path with -o")
    if (writer := writer_of(path)) is not None:
        raise InputError(f"{path} is being written by {writer}; there is nothing to recover while it runs")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: permission denied")


def _length_of_hdf5(path: Path) -> int | None:
    """Read how long HDF5 believes the file to be: a truncated one is read as if zeros followed."""
    with path.open("rb") as file:
        start = file.read(48)
        held = regular.held_bytes(file.fileno())
    if len(start) < 48 or start[8] > 1:
        return None
    (length,) = struct.unpack_from("<Q", start, 40)
    return int(length) if length <= max(1 << 20, 1000 * held) else None


class _Recoverer:
    """One pass over a file that may fail anywhere."""

    def __init__(self, file: h5py.File, report: Recovery, view: Overlay) -> None:
        self._file = file
        self._view = view
        self._report = report
        self._fixed: dict[str, NDArray[Any]] = {}
        self._growing: dict[str, h5py.Dataset] = {}
        self._sort()
        if not self._growing:
            raise InputError(f"nothing can be saved of {report.path}: it holds no variable along step")

    def _sort(self) -> None:
        """Find the variables, and read those that do not grow."""
        for name in islice(self._file, MOST_LINKS):
            try:
                item = member(self._report.path, self._file, name)
                if isinstance(item, h5py.Group):
                    continue
                check_array(self._report.path, item, name, self._view)
                known = schema.variable(name if name != GROUP_VARIABLE else schema.GROUP)
                if item.maxshape[:1] == (None,):
                    if item.dtype.kind == "O" or (name != schema.STEP and item.ndim != len(known.dims)):
                        raise ValueError(f"it has {item.ndim} dimensions of {item.dtype}")
                    self._growing[name] = item
                else:
                    self._fixed[name] = item.asstr()[:] if item.dtype.kind == "O" else item[:]
            except DAMAGE as error:
                self._lose(name, error)

    def _lose(self, name: str, error: BaseException) -> None:
        self._report.lost[name] = " ".join((str(error) or type(error).__name__).split())

    def write(self) -> None:
        """Write the new file, complete or not at all.

        Raises:
            InputError: it cannot be written.
        """
        rows = self._rows()
        attributes = self._attributes()
        status = str(attributes.pop("status", "failed"))
        axes = self._axes()
        attributes["config"].setdefault("groups", [{}] * axes["groups"])
        storage = Storage(digits=self._file_digits())
        static = self._static(axes)
        writer = Writer(self._report.output, static=static, attributes=attributes, storage=storage, **axes)
        try:
            self._copy_rows(writer, rows)
            self._copy_tables(writer)
            told = "nothing is missing" if self._report.complete else "parts are missing: " + self._summary()
            writer.event(-1, "recovered", f"recovered from {self._report.path.name}; {told}")
            writer.close("finished" if status == "finished" else "failed")
        except BaseException:
            writer.close("failed")
            self._report.output.unlink(missing_ok=True)
            raise
        if writer.problem is not None:
            raise InputError(writer.problem)
        self._report.rows = writer.rows

    def _summary(self) -> str:
        return ", ".join(
            [*self._report.lost, *(name for name in self._report.missing if name not in self._report.lost)]
        )

    def _rows(self) -> int:
        lengths = [len(d) for d in self._growing.values()]
        rows = len(self._growing[schema.STEP]) if schema.STEP in self._growing else max(lengths)
        with contextlib.suppress(*DAMAGE):
            if (published := int(self._file.attrs["rows"])) >= 0:
                rows = min(rows, published)
        row = sum(claimed(dataset) // max(1, len(dataset)) for dataset in self._growing.values())
        check_rows(rows, self._view.held)
        check_claims(rows * row, self._view.held)
        return rows

    def _attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            names = list(islice(self._file.attrs, MOST_ATTRIBUTES))
        except DAMAGE:
            names = []
        for name in names:
            try:
                found[name] = attribute(self._file, name)
                if name in ("config", "capture"):
                    found[name] = parsed(found[name], name)
            except DAMAGE as error:
                found.pop(name, None)
                self._lose(f"attribute {name}", error)
        for name, stand_in in _STAND_INS.items():
            if name not in found:
                found[name] = stand_in
                self._report.lost.setdefault(f"attribute {name}", "it is not there")
        if found.get("status") not in STATUS:
            found["status"] = "failed"
        return {name: value for name, value in found.items() if name not in _OURS or name == "status"}

    def _axes(self) -> dict[str, Any]:
        """Return the labels, as the writer takes them; stand-ins for those that are gone."""

        def width(dim: str) -> int:
            for name, dataset in self._growing.items():
                dims = schema.variable(name).dims
                if dim in dims:
                    return int(dataset.shape[dims.index(dim)])
            return 0

        def labels(dim: str) -> list[str]:
            here = self._fixed.get(dim)
            if here is not None and here.dtype.kind in "OU":
                return [str(label) for label in here]
            return [f"{dim} {i}" for i in range(width(dim))]

        bins = self._fixed.get(schema.BIN)
        groups = len(self._fixed[schema.GROUP]) if schema.GROUP in self._fixed else width(schema.GROUP)
        return {
            "parameters": labels(schema.PARAMETER),
            "modules": labels(schema.MODULE),
            "groups": groups,
            "bins": np.arange(width(schema.BIN)) if bins is None and width(schema.BIN) else bins,
            "units": labels(schema.UNIT) or None,
        }

    def _static(self, axes: dict[str, Any]) -> dict[str, NDArray[Any]]:
        count = len(axes["parameters"])
        stand_ins = {"numel": np.ones(count), "penalised": np.ones(count), schema.GROUP: np.zeros(count)}
        found = {}
        for name, stand_in in stand_ins.items():
            stored = self._fixed.get(GROUP_VARIABLE if name == schema.GROUP else name)
            if stored is None or stored.shape != (count,) or stored.dtype.kind not in "iufb":
                self._report.lost.setdefault(name, "it is not there")
                stored = stand_in
            found[name] = stored
        return found

    def _file_digits(self) -> int | None:
        with contextlib.suppress(*DAMAGE):
            for dataset in self._growing.values():
                if "significant_digits" in dataset.attrs:
                    return int(dataset.attrs["significant_digits"])
        return None

    # -- rows -------------------------------------------------------------------------------------

    def _copy_rows(self, writer: Writer, rows: int) -> None:
        steps = self._steps(rows)
        for start in range(0, rows, MOST_ROWS):
            stop = min(rows, start + MOST_ROWS)
            block: dict[str, NDArray[Any]] = {schema.STEP: steps[start:stop]}
            for name, dataset in self._growing.items():
                if name != schema.STEP and name not in self._report.lost:
                    block[name] = self._read(name, dataset, start, stop)
            try:
                writer.append(block)
            except InputError:
                for name, problem in _misfits(writer, block):
                    self._lose(name, problem)
                    del block[name]
                writer.append(block)
        for name in self._growing:
            spans = self._report.missing.get(name)
            if spans == [(0, rows - 1)]:
                self._lose(name, ValueError("none of its rows can be read"))
        self._report.variables = sorted(name for name in self._growing if name not in self._report.lost)

    def _steps(self, rows: int) -> NDArray[np.int64]:
        """Read the steps of the rows; where they are gone, infer them from the rows around."""
        dataset = self._growing.get(schema.STEP)
        known = np.zeros(rows, dtype=bool)
        steps = np.arange(rows, dtype=np.int64)
        if dataset is not None:
            for start in range(0, rows, MOST_ROWS):
                stop = min(rows, start + MOST_ROWS)
                before = list(self._report.missing.get(schema.STEP, ()))
                steps[start:stop] = self._read(schema.STEP, dataset, start, stop)
                known[start:stop] = self._report.missing.get(schema.STEP, []) == before
        where = np.flatnonzero(known)
        if len(where) in (0, rows):
            return steps if len(where) else np.arange(rows, dtype=np.int64)
        every = int(np.median(np.diff(steps[where]))) if len(where) > 1 else 1
        near = where[np.clip(np.searchsorted(where, np.arange(rows)) - 1, 0, None)]
        return np.where(known, steps, steps[near] + every * (np.arange(rows) - near))

    def _read(self, name: str, dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
        """Read rows of a variable, chunk by chunk where they do not come in one piece."""
        width = dataset.shape[1:]
        fill = np.nan if dataset.dtype.kind == "f" else 0
        values = np.full((stop - start, *width), fill, dtype=dataset.dtype)
        for first, last in _pieces(dataset, start, min(stop, len(dataset))):
            try:
                self._refuse_what_was_cut_off(dataset, first)
                key = (slice(first, last), *(slice(None) for _ in width))
                values[first - start : last - start] = chunks.rows(self._view, dataset, key)
            except DAMAGE as error:
                self._miss(name, first, last - 1)
                self._report.why.setdefault(name, " ".join(str(error).split()))
        if len(dataset) < stop:
            self._miss(name, max(start, len(dataset)), stop - 1)
        return values

    def _refuse_what_was_cut_off(self, dataset: h5py.Dataset, row: int) -> None:
        """Refuse a chunk beyond the file's end: zeros stand in for it, and a plain chunk would be read as zeros."""
        if dataset.chunks:
            info = dataset.id.get_chunk_info_by_coord((row, *(0 for _ in dataset.shape[1:])))
            if info.byte_offset is not None and info.byte_offset + info.size > self._view.real_size:
                raise OSError("cut off")

    def _miss(self, name: str, first: int, last: int) -> None:
        spans = self._report.missing.setdefault(name, [])
        if spans and spans[-1][1] == first - 1:
            spans[-1] = (spans[-1][0], last)
        else:
            spans.append((first, last))

    # -- tables -----------------------------------------------------------------------------------

    def _copy_tables(self, writer: Writer) -> None:
        try:
            table = self._table("events")
            columns = (table["step"], table["kind"], table["text"])
            for step, kind, text in zip(*columns, strict=True):
                writer.event(int(step), str(kind), str(text))
            self._report.events = len(table["step"])
        except DAMAGE as error:
            self._lose("events", error)
        try:
            table = self._table("epochs")
            for i, epoch in enumerate(table["epoch"]):
                writer.epoch(int(epoch), {n: float(v[i]) for n, v in table.items() if n != "epoch"})
            self._report.epochs = len(table["epoch"])
        except DAMAGE as error:
            self._lose("epochs", error)

    def _table(self, name: str) -> dict[str, NDArray[Any]]:
        group = member(self._report.path, self._file, name)
        check_count(group)
        found = {}
        for column in group:
            item = member(self._report.path, group, column)
            check_array(self._report.path, item, f"{name}/{column}", self._view)
            found[column] = item.asstr()[:] if item.dtype.kind == "O" else item[:]
        return found


def _pieces(dataset: h5py.Dataset, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield rows chunk by chunk: a record's chunks divide the rows that are read at a time."""
    size = dataset.chunks[0] if dataset.chunks else MOST_ROWS
    for first in range(start, stop, size):
        yield first, min(stop, first + size)


def _misfits(writer: Writer, block: dict[str, NDArray[Any]]) -> list[tuple[str, InputError]]:
    found = []
    for name, values in block.items():
        try:
            writer.check(name, values, len(block[schema.STEP]))
        except InputError as error:
            found.append((name, error))
    return found
