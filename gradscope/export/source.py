"""A record as the exporters read it: block by block, however long it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from gradscope.store.reader import open_run
from gradscope.types import InputError

#: What a block of rows may take, in bytes, and how many rows it has at most.
BLOCK_BYTES, MOST_ROWS = 1 << 26, 1 << 16


@dataclass(frozen=True)
class Source:
    """``dataset`` is read lazily; ``epochs`` and ``events``, which are small, are in memory."""

    path: Path
    dataset: xr.Dataset
    epochs: xr.Dataset
    events: xr.Dataset

    @property
    def rows(self) -> int:
        return int(self.dataset.sizes["step"])

    @property
    def block_rows(self) -> int:
        """Rows of a block: a power of two, so that blocks and the file's chunks end together."""
        a_row = sum(v.nbytes for v in self.dataset.variables.values() if "step" in v.dims) / self.rows
        return int(2 ** np.clip(np.floor(np.log2(BLOCK_BYTES / a_row)), 0, np.log2(MOST_ROWS)))

    def blocks(self, variables: list[str] | None = None) -> Iterator[xr.Dataset]:
        """The rows in order, in memory, a block at a time; ``variables``: of these only."""
        dataset = self.dataset if variables is None else self.dataset[variables]
        for start in range(0, self.rows, self.block_rows):
            yield dataset.isel(step=slice(start, start + self.block_rows)).load()


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A record, finished, running or left by a killed process. Raises `InputError` for one without rows."""
    with open_run(path) as dataset:
        if not dataset.sizes["step"]:
            raise InputError(f"{path} is empty: no training step was recorded, so there is nothing to export")
        tables = []
        for group in ("epochs", "events"):
            with open_run(path, group) as table:
                tables.append(table.load())
        yield Source(path, dataset, *tables)
