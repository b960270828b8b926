"""The rules over a recorded run: the same checker as live, fed from a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gradscope.diagnosis.rules.catalogue import Chosen
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.derived import VALIDATION
from gradscope.diagnosis.rules.facts import Facts

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

#: Rows read at a time; bounds the memory that a long record takes.
BLOCK = 8192


def check(
    dataset: xr.Dataset,
    rules: Chosen | None = None,
    epoch_metrics: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] | None = None,
) -> Checker:
    """A checker that has seen every row of the record.

    ``dataset``: what `gradscope.open_run` returns. ``rules``: what `catalogue.chosen` returns, all by default.
    ``epoch_metrics``: what `gradscope.store.reader.epoch_metrics` returns; `overfitting_gap` looks for a validation
    loss in it.
    """
    checker = Checker(Facts.from_record(dataset), rules, validation_losses(epoch_metrics or {}))
    feed(checker, dataset)
    return checker


def feed(checker: Checker, dataset: xr.Dataset) -> None:
    """Every row of a record to a checker, in bounded memory."""
    for start in range(0, dataset.sizes["step"], BLOCK):
        part = dataset.isel(step=slice(start, start + BLOCK))
        checker.update({name: part[name].values for name in NEEDED if name in part.variables})


def validation_losses(metrics: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> dict[int, float]:
    """The validation loss by epoch, under the first of its usual names that is there."""
    name = next((name for name in VALIDATION if name in metrics), None)
    if name is None:
        return {}
    return {int(k): float(v) for k, v in zip(metrics["epoch"], metrics[name], strict=True)}
