"""Record opened once: settings, rows, events and metrics as typed values. Reads with h5py and numpy alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypedDict

import h5py
import numpy as np
from numpy.typing import NDArray

from gradscope.quantities import Strength
from gradscope.run_info import RunInfo
from gradscope.store import chunks, schema
from gradscope.store.layout import GROUP_VARIABLE
from gradscope.store.record_source import check, opened, source_of, told
from gradscope.store.regular import DAMAGE, damaged
from gradscope.store.snapshot import Overlay
from gradscope.types import InputError

#: Cells of one variable that `Record.blocks` holds at a time, and rows at least and at most.
BLOCK_CELLS, FEWEST_ROWS, MOST_ROWS = 1 << 19, 64, 1 << 16


class Event(TypedDict):
    """Event of a run.

    Attributes:
        step: at which it happened; −1: before the first.
        kind: such as ``warning``.
        text: in a sentence.
    """

    step: int
    kind: str
    text: str


class Record:
    """Record as it was when it was opened: finished, running or left by a killed process. Never writes.

    A context manager. What is small is read once.

    Args:
        path: of the record.

    Attributes:
        path: of the record.
        attributes: of the file, as they stand there.
        config: the settings of the training, parsed.
        capture: what each number means in this run, parsed.
        info: what judge, rules and figures have to know beside the rows.
        rows: published rows.
        status: ``running``, ``finished`` or ``failed``.
        dims: of every variable, by name.
        meanings: the long name of every variable.

    Raises:
        RecordNotFoundError: there is no such file.
        InputError: it is no record, damaged, or of a later gradscope.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check(path)
        try:
            self._source, self.rows = source_of(self.path, self._take)
        except DAMAGE as error:
            raise told(self.path, error) from None
        self.status = str(self.attributes["status"])

    def _take(self, file: h5py.File) -> None:
        """Read what is small, while the file is looked at for the first time."""
        self.attributes: dict[str, Any] = {str(name): _plain(value) for name, value in file.attrs.items()}
        self.config: dict[str, Any] = json.loads(self.attributes["config"])
        self.capture: dict[str, Any] = json.loads(self.attributes["capture"])
        self.dims: dict[str, tuple[str, ...]] = {}
        self.meanings: dict[str, str] = {}
        for name, item in file.items():
            if name in _SCALES or not isinstance(item, h5py.Dataset):
                continue
            own = schema.GROUP if name == GROUP_VARIABLE else name
            dims = schema.variable(own).dims
            if len(dims) == item.ndim and (dims[0] == schema.STEP) == (item.maxshape[:1] == (None,)):
                self.dims[own] = dims
                self.meanings[own] = str(item.attrs.get("long_name", ""))
        static = {"numel": file["numel"][...], "penalised": file["penalised"][...], "group": file[GROUP_VARIABLE][...]}
        self.info = RunInfo.of(
            _texts(file, schema.PARAMETER),
            _texts(file, schema.MODULE),
            static,
            self.attributes["penalty"],
            self.config,
            self.capture,
            self.attributes.get("baseline_loss"),
            int(self.attributes.get("horizon", -1)),
        )

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file: nothing more is read, and what was read stays."""
        if isinstance(self._source, Overlay):
            self._source.close()

    # -- settings ---------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the recording was closed in order."""
        return self.status == "finished"

    @property
    def penalty(self) -> str:
        """Word of the penalty, such as ``"l2"``."""
        return self.info.penalty

    @property
    def schedule(self) -> str:
        """Text of the schedule, such as ``"delayed:5"``; ``"constant"`` where none was set."""
        return str(self.config.get("schedule") or "constant")

    @property
    def preset(self) -> str:
        """What was recorded: cheap, standard or full."""
        return str(self.config.get("preset", "unknown"))

    @property
    def optimizer(self) -> str:
        """Class of the first parameter group's optimizer."""
        return str(self._first_group.get("class", "unknown"))

    @property
    def learning_rate(self) -> float | None:
        """Learning rate of the first parameter group, at the start; None where it is no number."""
        rate = self._first_group.get("lr")
        return float(rate) if isinstance(rate, int | float) else None

    @property
    def _first_group(self) -> dict[str, Any]:
        groups = self.config["groups"]
        return dict(groups[0]) if groups else {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, by name; empty in records that do not say."""
        found = self.config.get("shapes")
        return {str(k): tuple(int(n) for n in v) for k, v in found.items()} if isinstance(found, dict) else {}

    @property
    def horizon(self) -> int | None:
        """Planned steps; None where none were given."""
        return self.info.horizon

    @property
    def baseline(self) -> tuple[float, str] | None:
        """Loss of the best constant predictor, and where the number is from; None where nothing is known."""
        loss, source = self.info.baseline_loss, self.capture.get("baseline_loss")
        return None if source is None or math.isnan(loss) else (loss, str(source))

    # -- rows -------------------------------------------------------------------------------------

    @cached_property
    def bins(self) -> NDArray[np.float64]:
        """Lower edges of the bins of histograms, [bins]; empty where none were recorded."""
        with self._opened() as (_, file):
            return np.asarray(file[schema.BIN][...] if schema.BIN in file else (), dtype=np.float64)

    def __contains__(self, name: object) -> bool:
        return name == schema.STEP or name in self.dims

    def column(self, name: str, rows: slice | int | Sequence[int] = slice(None)) -> NDArray[Any]:
        """Read the published values of a variable.

        Args:
            name: of the variable.
            rows: which; of what does not grow, all of it is read.

        Returns:
            The values, [rows, …].

        Raises:
            InputError: the record does not hold it, or it cannot be read.
        """
        if name not in self:
            raise InputError(f"{self.path} holds no {name}; it holds {', '.join(self.dims)}")
        with self._opened() as (view, file):
            return self._read(view, file, name, rows)

    def blocks(self, names: Sequence[str], before: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """Read the rows in order, in bounded memory.

        Args:
            names: variables; those that the record lacks are left out.
            before: the first step that is not wanted any more.

        Yields:
            Arrays by variable, [n, …] each, ``step`` among them.
        """
        wanted = [name for name in dict.fromkeys((schema.STEP, *names)) if name in self]
        rows = self.rows if before is None else int(np.searchsorted(self.steps, before))
        size = self._block_rows(wanted)
        for start in range(0, rows, size):
            yield self.rows_of(wanted, slice(start, min(rows, start + size)))

    def rows_of(self, names: Sequence[str], rows: slice) -> dict[str, NDArray[Any]]:
        """Read these rows of these variables, which the record holds."""
        with self._opened() as (view, file):
            return {name: self._read(view, file, name, rows) for name in names}

    def _block_rows(self, names: Sequence[str]) -> int:
        """Compute the rows of a block: a power of two, so that blocks and the file's chunks end together."""
        sizes = {"parameter": len(self.info.parameters), "module": len(self.info.modules)}
        width = max((sizes.get(dim, 1) for name in names for dim in self.dims.get(name, ())), default=1)
        return int(2 ** np.floor(np.log2(np.clip(BLOCK_CELLS // max(width, 1), FEWEST_ROWS, MOST_ROWS))))

    def _read(self, view: Overlay, file: h5py.File, name: str, rows: Any) -> NDArray[Any]:
        try:
            item = file[GROUP_VARIABLE if name == schema.GROUP else name]
            if item.maxshape[:1] != (None,):
                values = np.asarray(item[...])
                return values.astype(bool) if item.attrs.get("dtype") == "bool" else values
            chosen = np.arange(self.rows)[rows]
            key: Any = rows if isinstance(rows, slice) and rows.step in (None, 1) else chosen
            if isinstance(key, slice):
                key = slice(int(chosen[0]), int(chosen[-1]) + 1) if len(chosen) else slice(0, 0)
            found = chunks.rows(view, item, (key, *(slice(None) for _ in item.shape[1:])))
            return found.astype(bool) if item.attrs.get("dtype") == "bool" else found
        except DAMAGE as error:
            raise damaged(self.path, error, name) from None

    @contextmanager
    def _opened(self) -> Iterator[tuple[Overlay, h5py.File]]:
        """Open the file for one read: an object of h5py that outlives its file can bring the process down."""
        try:
            with opened(self._source) as view, h5py.File(view, "r") as file:
                yield view, file
        except DAMAGE as error:
            raise told(self.path, error) from None

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Optimizer step of every row, [N]."""
        return np.asarray(self.column(schema.STEP), dtype=np.int64)

    @property
    def steps_run(self) -> int:
        """Step after the last recorded one."""
        return int(self.steps[-1]) + 1 if self.rows else 0

    @property
    def epochs(self) -> int | None:
        """Epochs that were begun; None where they are not known."""
        last = int(self.column("epoch", -1)) if self.rows and "epoch" in self else -1
        return last + 1 if last >= 0 else None

    # -- what follows -----------------------------------------------------------------------------

    @cached_property
    def strength(self) -> Strength:
        """Full strength of the run: the largest that acted on a penalised parameter.

        To six digits, as it was given: the file holds it in float32.
        """
        groups = np.unique(self.info.group[self.info.penalised])
        strongest = 0.0
        if len(groups) and "strength" in self:
            for block in self.blocks(("strength",)):
                seen = block["strength"][:, groups]
                if not np.isnan(seen).all():
                    strongest = max(strongest, float(np.nanmax(seen)))
        return Strength(float(f"{strongest:.6g}"), self.penalty)

    @property
    def switched_on(self) -> int | None:
        """First recorded step at which a penalty acted, None if none did."""
        if "strength" in self:
            for block in self.blocks(("strength",)):
                acting = np.nan_to_num(block["strength"]).max(1, initial=0) > 0
                if acting.any():
                    return int(block["step"][acting.argmax()])
        return None

    @property
    def sparsity(self) -> float:
        """Share of exact zeros among the weights that count, in the last row; NaN where it was not recorded."""
        if "weight_zero_fraction" not in self or not self.rows:
            return math.nan
        shares = self.column("weight_zero_fraction", -1).astype(np.float64)
        kept = self.info.watched & np.isfinite(shares)
        entries = self.info.numel[kept]
        return float((shares[kept] * entries).sum() / entries.sum()) if kept.any() else math.nan

    # -- tables beside the rows -------------------------------------------------------------------

    @cached_property
    def events(self) -> list[Event]:
        """What happened, oldest first."""
        with self._opened() as (_, file):
            table = file["events"]
            columns = table["step"][...].tolist(), table["kind"].asstr()[...], table["text"].asstr()[...]
        return [{"step": int(s), "kind": str(k), "text": str(t)} for s, k, t in zip(*columns, strict=True)]

    @cached_property
    def metrics(self) -> dict[str, NDArray[Any]]:
        """Metrics given to `Recording.epoch`, with ``epoch`` itself, [epochs] each."""
        with self._opened() as (_, file):
            return {str(name): np.asarray(item[...]) for name, item in file["epochs"].items()}


#: Data sets of a record that are no variables.
_SCALES = (schema.STEP, schema.PARAMETER, schema.MODULE, schema.GROUP, schema.BIN, schema.UNIT)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _texts(file: h5py.File, name: str) -> list[str]:
    return [str(text) for text in file[name].asstr()[...]] if name in file else []
