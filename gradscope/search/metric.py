"""The number that a run is compared by: a metric of its epochs, or a scalar that its loop logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradscope.store.reader import epoch_metrics
from gradscope.types import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

#: Scalars of a step that every record holds, and no loop logs.
OURS = {"epoch", "time", "skipped", "clip_coefficient"}
#: The share of the rows at the end over which a scalar of the steps is averaged, as the label is.
END = 0.05


def metrics_in(path: Path, dataset: xr.Dataset) -> tuple[list[str], list[str]]:
    """The names that a record can be compared by: those of its epochs, those logged at steps."""
    of_steps = [str(name) for name, values in dataset.data_vars.items() if values.dims == ("step",)]
    return [name for name in epoch_metrics(path) if name != "epoch"], [n for n in of_steps if n not in OURS]


def metric_at_end(path: Path, dataset: xr.Dataset, name: str) -> float | None:
    """The last finite value of a metric of the epochs, or the mean of a logged scalar over the last 5 % of the rows.

    None where the run ended before there was one. A name that epochs and steps share is that of the epochs. Raises
    `InputError` for a name that the record does not hold, with those that it holds.
    """
    of_epochs, of_steps = metrics_in(path, dataset)
    if name in of_epochs:
        values = np.asarray(epoch_metrics(path)[name], dtype=np.float64)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None
    if name in of_steps:
        values = np.asarray(dataset[name].values, dtype=np.float64)
        last = values[-max(1, round(END * len(values))) :]
        finite = last[np.isfinite(last)]
        return float(finite.mean()) if len(finite) else None
    held = ", ".join([*of_epochs, *(n for n in of_steps if n not in of_epochs)]) or "none"
    raise InputError(
        f"{path.name} has no metric {name!r}; it holds {held}. Metrics come from Recording.epoch(k, {name}=…) or "
        f"Recording.log({name}=…)"
    )


def zeros_at_end(dataset: xr.Dataset) -> float | None:
    """The share of the penalised weights that are exactly 0 in the last row; None where nothing tells."""
    if "weight_zero_fraction" not in dataset.variables or not dataset.sizes["step"]:
        return None
    share = np.asarray(dataset["weight_zero_fraction"].isel(step=-1).values, dtype=np.float64)
    kept = np.asarray(dataset["penalised"].values, dtype=bool) & np.isfinite(share)
    count = np.asarray(dataset["numel"].values, dtype=np.float64)[kept]
    return float((share[kept] * count).sum() / count.sum()) if kept.any() else None
