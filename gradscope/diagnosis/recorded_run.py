"""What the judge and the rules read of a recorded run: a `gradscope.store.record.Record`, or a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gradscope.run_info import RunInfo
from gradscope.types import InputError

if TYPE_CHECKING:
    import xarray as xr

Rows = Mapping[str, NDArray[Any]]

#: Rows read at a time; bounds the memory that a long record takes.
BLOCK = 8192


class Recorded(Protocol):
    """Record that can be read."""

    @property
    def info(self) -> RunInfo:
        """What does not change from row to row."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def finished(self) -> bool:
        """Whether no more rows will come."""

    @property
    def metrics(self) -> Mapping[str, NDArray[Any]]:
        """Metrics of the epochs, by name."""

    def blocks(self, names: Sequence[str], before: int | None = None) -> Iterator[Rows]:
        """Yield the rows in order, with ``step`` and those of ``names`` that are there; ``before``: a step."""


class OfDataset:
    """Record that is an `xarray.Dataset`, as `gradscope.open_run` gives it, or a part of it, without epoch metrics."""

    def __init__(self, dataset: xr.Dataset) -> None:
        if not hasattr(dataset, "variables"):  # not isinstance: xarray is imported by those who read alone
            raise InputError(
                f"expected a record, as its path or the dataset of gradscope.open_run(path); got {dataset!r}"
            )
        missing = [name for name in ("step", "numel", "penalised", "group") if name not in dataset.variables]
        if missing:
            raise InputError(f"not a gradscope record: it has no {', '.join(missing)}")
        self._dataset = dataset
        self.info = RunInfo.from_record(dataset["parameter"].values, dataset, dataset.attrs)
        self.rows = int(dataset.sizes["step"])
        self.finished = dataset.attrs["status"] == "finished"
        self.metrics: Mapping[str, NDArray[Any]] = {}

    def blocks(self, names: Sequence[str], before: int | None = None) -> Iterator[Rows]:
        """Yield the rows in order, with ``step`` and those of ``names`` that are there; ``before``: a step."""
        rows = self.rows if before is None else int(np.searchsorted(self._dataset["step"].values, before))
        for start in range(0, rows, BLOCK):
            part = self._dataset.isel(step=slice(start, min(rows, start + BLOCK)))
            yield {name: part[name].values for name in dict.fromkeys(("step", *names)) if name in part.variables}


def recorded(source: Recorded | xr.Dataset) -> Recorded:
    """Wrap a dataset as the judge takes it, or return a record; raise `InputError` for anything else."""
    return cast(Recorded, source) if hasattr(source, "blocks") else OfDataset(cast("xr.Dataset", source))
