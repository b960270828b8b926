"""Read a record for the exporters, block by block, however long it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import xarray as xr

from gradscope import checks
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.types import InputError

#: What a block of rows may take, in bytes, and how many rows it has at most.
BLOCK_BYTES, MOST_ROWS = 1 << 26, 1 << 16


@dataclass(frozen=True)
class Choice:
    """The part of a record that is exported. Without arguments: all of it.

    Attributes:
        variables: names of variables along ``step``, or patterns such as ``weight_*``; every other one but ``time`` is
            left out.
        parameters: a regular expression that is searched in the names of parameters and of modules.
        every: one row of this many, the first one among them.

    Raises:
        InputError: an expression that cannot be read, or ``every`` below 1.
    """

    variables: Sequence[str] = ()
    parameters: str | None = None
    every: int = 1

    def __post_init__(self) -> None:
        checks.positive_int(self.every, "--every")
        if self.parameters is not None:
            self._names()

    def of(self, dataset: xr.Dataset, path: Path) -> xr.Dataset:
        """Select that part lazily; raise `InputError` where nothing in the record has such a name."""
        if self.variables:
            rows = [str(name) for name, v in dataset.data_vars.items() if "step" in v.dims]
            for pattern in self.variables:
                if not any(fnmatchcase(name, pattern) for name in rows):
                    raise InputError(f"{path} holds no variable {pattern!r}; it holds {', '.join(rows)}")
            chosen = {name for name in rows if any(fnmatchcase(name, pattern) for pattern in self.variables)}
            dataset = dataset.drop_vars([name for name in rows if name not in chosen | {"time"}])
        if self.parameters is not None:
            search = self._names().search
            kept = {
                dim: [k for k, name in enumerate(dataset[dim].values) if search(str(name))]
                for dim in ("parameter", "module", "unit")
                if dim in dataset.coords
            }
            if not any(kept.values()):
                first = dataset["parameter"].values[0] if dataset.sizes.get("parameter") else "none"
                raise InputError(f"--parameters {self.parameters!r} is in no name of {path}; names are such as {first}")
            dataset = dataset.isel(kept)
        return dataset.isel(step=slice(None, None, self.every)) if self.every > 1 else dataset

    def _names(self) -> re.Pattern[str]:
        try:
            return re.compile(self.parameters or "")
        except re.error as error:
            raise InputError(f"--parameters is {self.parameters!r}, not a regular expression: {error}") from None


@dataclass(frozen=True)
class Source:
    """Record as an exporter reads it.

    Attributes:
        path: the file.
        record: all of it.
        dataset: what is exported, read lazily.
        epochs: metrics of epochs, in memory.
        events: events, in memory.
    """

    path: Path
    record: Record
    dataset: xr.Dataset
    epochs: xr.Dataset
    events: xr.Dataset

    @property
    def rows(self) -> int:
        """Number of rows that are exported."""
        return int(self.dataset.sizes["step"])

    @property
    def block_rows(self) -> int:
        """Rows of a block: a power of two, so that blocks and the file's chunks end together."""
        a_row = sum(v.nbytes for v in self.dataset.variables.values() if "step" in v.dims) / self.rows
        return int(2 ** np.clip(np.floor(np.log2(BLOCK_BYTES / a_row)), 0, np.log2(MOST_ROWS)))

    def blocks(self, variables: list[str] | None = None) -> Iterator[xr.Dataset]:
        """Yield the rows in order, in memory, a block at a time; ``variables``: of these only."""
        dataset = self.dataset if variables is None else self.dataset[variables]
        for start in range(0, self.rows, self.block_rows):
            yield dataset.isel(step=slice(start, start + self.block_rows)).load()


@contextmanager
def opened(path: Path, choice: Choice = Choice()) -> Iterator[Source]:
    """Open a record, finished, running or left by a killed process; raise `InputError` for one without rows."""
    with Record(path) as record, open_run(path) as dataset:
        if not dataset.sizes["step"]:
            raise InputError(f"{path} is empty: no training step was recorded, so there is nothing to export")
        tables = []
        for group in ("epochs", "events"):
            with open_run(path, group) as table:
                tables.append(table.load())
        yield Source(path, record, choice.of(dataset, path), *tables)
