"""Predict when a layer will be too small for float32, by extrapolating a straight line through the logarithm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.quantities import BY_LAYER, GRADIENT, WEIGHT
from gradscope.report.page.page_values import RunPage

#: float32's smallest normal number; below it digits are lost, and 1e-45 is the end.
SMALLEST = float(np.finfo(np.float32).tiny)
#: The share of the run, at its end, that the line is laid through, and the windows that it takes at least.
LATEST, FEWEST = 0.25, 8
#: How many standard errors a slope has to be from zero, and by what factor the quantity has to have fallen.
SURE, FALLEN = 3.0, 1.5
WATCHED = (GRADIENT, WEIGHT)


@dataclass(frozen=True)
class Underflow:
    """The layer that leaves float32 first.

    Attributes:
        layer: its name.
        quantity: word of the quantity that leaves it.
        steps: from now, 0 if it has left.
        seconds: from now, None without a step rate.
    """

    layer: str
    quantity: str
    steps: float
    seconds: float | None

    @property
    def sentence(self) -> str:
        """The prediction in words, with what it rests on."""
        what = f"{BY_LAYER[self.quantity].axis} of {self.layer}"
        if self.steps <= 0:
            return f"{what} is below float32's smallest normal number ({SMALLEST:.2g})"
        clock = "" if self.seconds is None else f", {duration(self.seconds)}"
        return (
            f"{what} reaches float32's smallest normal number ({SMALLEST:.2g}) in about {self.steps:,.0f} steps"
            f"{clock}, if its logarithm goes on falling as it has over the last quarter of the run"
        )


def underflow(run: RunPage, steps_per_second: float | None) -> Underflow | None:
    """Find the first of all layers' gradients and weights to leave float32.

    Ordinary least squares of ln y over the step, on the centre of each window of the last quarter of the run.

    Returns:
        None where none is on its way.
    """
    first: Underflow | None = None
    for name in (q.word for q in WATCHED):
        if name not in run.quantities:
            continue
        quantity = run.quantities[name]
        steps = steps_left((run.begin + run.end) / 2, quantity.envelope.mean.astype(np.float64))
        soonest = int(np.argmin(steps)) if len(steps) else 0
        if len(steps) and np.isfinite(steps[soonest]) and (first is None or steps[soonest] < first.steps):
            left = float(steps[soonest])
            seconds = left / steps_per_second if steps_per_second else None
            first = Underflow(quantity.names[soonest], name, left, seconds)
    return first


def steps_left(at: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Extrapolate each column of ``values`` [W, K], at steps ``at`` [W], to `SMALLEST`: steps [K], or ∞."""
    known = np.isfinite(values).any(1)
    at, values = at[known], values[known]
    n = max(FEWEST, round(LATEST * len(at)))
    if len(at) < FEWEST:
        return np.full(values.shape[1], np.inf)
    x = at[-n:] - at[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(values[-n:])  # 0 becomes −∞, which makes slope and error NaN: told apart below
        centred = x - x.mean()
        slope = centred @ (y - y.mean(0)) / (centred @ centred)
        now = y.mean(0) - slope * x.mean()
        error = np.sqrt(((y - now - np.outer(x, slope)) ** 2).sum(0) / (len(x) - 2) / (centred @ centred))
        clear = (slope < -SURE * error) & (slope * (x[-1] - x[0]) < -np.log(FALLEN))
        steps = np.where(clear, (now - np.log(SMALLEST)) / -slope, np.inf)
    return np.where(values[-1] < SMALLEST, 0.0, np.maximum(steps, 0.0))


def duration(seconds: float) -> str:
    """Write a time in words."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
