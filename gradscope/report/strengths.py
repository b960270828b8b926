"""Figures against the strength of a penalty, from plain arrays: means over seeds with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.quantities import strength_axis
from gradscope.report.curves import Array, Curve, Curves, Level
from gradscope.report.intervals import FEWEST, mean_interval
from gradscope.types import InputError


@dataclass(frozen=True)
class Sample:
    """One series of runs, with one entry a run, [N].

    Attributes:
        label: name of the series.
        strength: λ of each run.
        value: what is drawn of each.
        sparsity: share of its weights that are 0.
    """

    label: str
    strength: Array
    value: Array
    sparsity: Array | None = None

    @classmethod
    def of(cls, label: str, strength: ArrayLike, values: ArrayLike, sparsity: ArrayLike | None = None) -> Sample:
        """Build a sample from one entry a run, [N], or from strengths [K] with the values of several seeds, [K, seeds].

        Args:
            label: name of the series.
            strength: λ, [N] or [K].
            values: [N] or [K, seeds]; NaN stands for a run that is missing.
            sparsity: shares of weights that are 0, the shape of ``values``.

        Returns:
            The sample.

        Raises:
            InputError: the shapes do not fit.
        """
        x, y = np.asarray(strength, dtype=np.float64), np.asarray(values, dtype=np.float64)
        s = None if sparsity is None else np.asarray(sparsity, dtype=np.float64)
        if x.ndim != 1 or y.shape[:1] != x.shape or y.ndim > 2 or (s is not None and s.shape != y.shape):
            shapes = f"{x.shape} strengths, {y.shape} values" + (f", {s.shape} sparsities" if s is not None else "")
            raise InputError(f"{label or 'a series'} has {shapes}; expected [N] and [N], or [K] and [K, seeds]")
        x = np.broadcast_to(x.reshape(x.shape + (1,) * (y.ndim - 1)), y.shape).ravel()
        kept = np.isfinite(y.ravel())
        return cls(label, x[kept], y.ravel()[kept], None if s is None else s.ravel()[kept])


def accuracy_against_strength(
    samples: Sequence[Sample], *, quantity: str = "accuracy", penalty: str = "", log_y: bool = False
) -> Curves:
    """Draw means over seeds with 95 % intervals against the strength, as Figures 1, 3, 4 and 6 of Park et al.

    Runs without a penalty (strength 0) have no place on a logarithmic axis and become a horizontal line.

    Args:
        samples: the series, one line each.
        quantity: name of their values.
        penalty: name of the penalty, for the axis.
        log_y: the y axis is logarithmic.

    Returns:
        One panel.

    Raises:
        InputError: no run has a strength above 0.
    """
    curves, levels = [], []
    for sample in samples:
        strengths = np.unique(sample.strength[sample.strength > 0])
        if len(strengths):
            stats = [mean_interval(sample.value[sample.strength == x]) for x in strengths]
            mean, low, high = np.array(stats).T
            acting = sample.strength > 0
            dots = sample.strength[acting], sample.value[acting]
            curves.append(Curve(sample.label, strengths, mean, low=low, high=high, dots_x=dots[0], dots_y=dots[1]))
        if len(without := sample.value[sample.strength == 0]):
            levels.append(Level(f"{sample.label}: no penalty".removeprefix(": "), float(without.mean())))
    if not curves:
        raise InputError(f"no run has a strength above 0, so there is nothing to set against the {quantity}")
    return Curves(
        f"{quantity[:1].upper()}{quantity[1:]} against strength",
        strength_axis([penalty]),
        quantity,
        tuple(curves),
        log_x=True,
        log_y=log_y,
        points=True,
        x_range=_decade_around(curves),
        levels=tuple(levels),
        notes=_interval_note(curves),
    )


def accuracy_against_sparsity(samples: Sequence[Sample], *, quantity: str = "accuracy") -> Curves:
    """Draw one point a strength, its mean sparsity against its mean accuracy (Park et al., Figures 3c, 4c, 7)."""
    curves = []
    for sample in samples:
        if sample.sparsity is None:
            raise InputError(f"{sample.label or 'a series'} has no sparsity; give it to Sample.of")
        points = []
        for x in np.unique(sample.strength):
            runs = sample.strength == x
            points.append((float(np.mean(sample.sparsity[runs])), *mean_interval(sample.value[runs])))
        x, mean, low, high = np.array(sorted(points)).T
        curves.append(Curve(sample.label, x, mean, low=low, high=high, dots_x=sample.sparsity, dots_y=sample.value))
    return Curves(
        f"{quantity[:1].upper()}{quantity[1:]} against sparsity",
        "share of weights that are exactly 0",
        quantity,
        tuple(curves),
        points=True,
        notes=_interval_note(curves),
    )


def _decade_around(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the axis of a single strength, which has no width of its own."""
    strengths = np.unique(np.concatenate([curve.x for curve in curves]))
    return (float(strengths[0]) / 10**0.5, float(strengths[0]) * 10**0.5) if len(strengths) == 1 else None


def _interval_note(curves: Sequence[Curve]) -> tuple[str, ...]:
    alone: list[NDArray[np.bool_]] = [np.isnan(curve.low) for curve in curves if curve.low is not None]
    if any(one.any() for one in alone):
        return (f"where a strength has fewer than {FEWEST} runs, there is no interval: record more seeds",)
    return ()
