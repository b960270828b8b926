"""Figures against the strength of a penalty, from plain arrays: means over seeds with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.quantities import strength_axis
from gradscope.report.curves import Array, Curve, Curves, Level
from gradscope.types import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sample:
    """One series of runs. One entry a run, [N]: its strength, what came of it, the share of its weights that are 0."""

    label: str
    strength: Array
    value: Array
    sparsity: Array | None = None

    @classmethod
    def of(cls, label: str, strength: ArrayLike, values: ArrayLike, sparsity: ArrayLike | None = None) -> Sample:
        """From one entry a run, [N], or from strengths [K] with the values of several seeds each, [K, seeds].

        NaN stands for a run that is missing. Raises `InputError` if the shapes do not fit.
        """
        x, y = np.asarray(strength, dtype=np.float64), np.asarray(values, dtype=np.float64)
        s = None if sparsity is None else np.asarray(sparsity, dtype=np.float64)
        if x.ndim != 1 or y.shape[:1] != x.shape or y.ndim > 2 or (s is not None and s.shape != y.shape):
            shapes = f"{x.shape} strengths, {y.shape} values" + (f", {s.shape} sparsities" if s is not None else "")
            raise InputError(f"{label or 'a series'} has {shapes}; expected [N] and [N], or [K] and [K, seeds]")
        x = np.broadcast_to(x.reshape(x.shape + (1,) * (y.ndim - 1)), y.shape).ravel()
        kept = np.isfinite(y.ravel())
        return cls(label, x[kept], y.ravel()[kept], None if s is None else s.ravel()[kept])


def mean_interval(values: Array) -> tuple[float, float, float]:
    """The mean over seeds and the ends of its 95 % interval by Student's t; NaN ends for fewer than two values.

    Near the tolerance level some seeds learn and some fail; there the interval is wide and no normal one: a figure
    shows the single runs too.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, np.nan, np.nan
    from scipy.stats import t as student  # here, for a table of runs needs no intervals

    half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return mean, mean - half, mean + half


def accuracy_against_strength(
    samples: Sequence[Sample], *, quantity: str = "accuracy", penalty: str = "", log_y: bool = False
) -> Curves:
    """Park et al., Figures 1, 3, 4, 6: means over seeds with 95 % intervals against the strength, one line a series.

    Runs without a penalty (strength 0) have no place on a logarithmic axis and become a horizontal line.
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
        y_range=_bounds(curves),
        levels=tuple(levels),
        notes=_interval_note(curves),
    )


def accuracy_against_sparsity(samples: Sequence[Sample], *, quantity: str = "accuracy") -> Curves:
    """Park et al., Figures 3c, 4c, 7: one point a strength, its mean sparsity against its mean accuracy."""
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
        y_range=_bounds(curves),
        notes=_interval_note(curves),
    )


def _decade_around(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The axis of a single strength, which has no width of its own."""
    strengths = np.unique(np.concatenate([curve.x for curve in curves]))
    return (float(strengths[0]) / 10**0.5, float(strengths[0]) * 10**0.5) if len(strengths) == 1 else None


def _bounds(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The axis of a share ends at 0 and 1, where an interval of few seeds reaches beyond what can be."""
    single = np.concatenate([curve.dots_y for curve in curves if curve.dots_y is not None])
    ends = np.concatenate([end for curve in curves for end in (curve.low, curve.high) if end is not None])
    ends = ends[np.isfinite(ends)]
    if single.min() < 0 or single.max() > 1 or not len(ends) or (ends.min() >= 0 and ends.max() <= 1):
        return None
    low, high = max(0.0, min(ends.min(), single.min())), min(1.0, max(ends.max(), single.max()))
    room = 0.03 * (high - low)
    return low - room, high + room


def _interval_note(curves: Sequence[Curve]) -> tuple[str, ...]:
    alone: list[NDArray[np.bool_]] = [np.isnan(curve.low) for curve in curves if curve.low is not None]
    if any(one.any() for one in alone):
        return ("where a strength has one run, there is no interval: record more seeds",)
    return ()
