"""The number that a run is compared by: a metric of its epochs, or a scalar that its loop logged."""

from __future__ import annotations

import numpy as np

from gradscope.store.record import Record
from gradscope.types import InputError

#: Scalars of a step that every record holds, and no loop logs.
OURS = {"epoch", "time", "skipped", "clip_coefficient"}
#: The share of the rows at the end over which a scalar of the steps is averaged, as the label is.
END = 0.05


def metrics_in(record: Record) -> tuple[list[str], list[str]]:
    """The names that a record can be compared by: those of its epochs, those logged at steps."""
    of_steps = [name for name, dims in record.dims.items() if dims == ("step",) and name not in OURS]
    return [name for name in record.metrics if name != "epoch"], of_steps


def metric_at_end(record: Record, name: str) -> float | None:
    """The last finite value of a metric of the epochs, or the mean of a logged scalar over the last 5 % of the rows.

    None where the run ended before there was one. A name that epochs and steps share is that of the epochs. Raises
    `InputError` for a name that the record does not hold, with those that it holds.
    """
    of_epochs, of_steps = metrics_in(record)
    if name in of_epochs:
        values = np.asarray(record.metrics[name], dtype=np.float64)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None
    if name in of_steps:
        last = record.column(name, slice(-max(1, round(END * record.rows)), None)).astype(np.float64)
        finite = last[np.isfinite(last)]
        return float(finite.mean()) if len(finite) else None
    held = ", ".join([*of_epochs, *(n for n in of_steps if n not in of_epochs)]) or "none"
    raise InputError(
        f"{record.path.name} has no metric {name!r}; it holds {held}. Metrics come from "
        f"Recording.epoch(k, {name}=…) or Recording.log({name}=…)"
    )


def zeros_at_end(record: Record) -> float | None:
    """The share of the penalised weights that are exactly 0 in the last row; None where nothing tells."""
    share = record.sparsity
    return share if record.info.penalised.any() and np.isfinite(share) else None
