"""Typed summaries: what a figure shows, computed before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.series import Series
from gradscope.diagnosis.tolerance import recorded_strength
from gradscope.store.reader import epoch_metrics, open_run
from gradscope.types import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line of a figure. ``failed`` runs are drawn dashed."""

    label: str
    x: Array
    y: Array
    failed: bool = False


@dataclass(frozen=True)
class Curves:
    """A figure of lines."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    points: bool = False

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        curves = [{"label": c.label, "failed": c.failed, "x": c.x.tolist(), "y": c.y.tolist()} for c in self.curves]
        return {"title": self.title, "x_label": self.x_label, "y_label": self.y_label, "curves": curves}


@dataclass(frozen=True)
class RunSeries:
    """One record, ready for figures."""

    path: Path
    label: str
    strength: float
    failed: bool
    series: Series
    metrics: dict[str, Array]


QUANTITIES = {
    "gradient": ("Mean |∂L/∂w|", "mean |∂L/∂w|", False),
    "gradient-closeup": ("Mean |∂L/∂w|, log scale", "mean |∂L/∂w|", True),
    "proportion": ("Share of ∂L/∂w in all gradients", "Σ|∂L/∂w| / (Σ|∂L/∂w| + Σ|λ∂Ω/∂w|)", False),
    "weight": ("Mean |w|", "mean |w|", True),
    "loss": ("Training loss", "loss", False),
}
FIGURES = ("accuracy", *QUANTITIES)


def load_run(path: Path, label: str | None = None) -> RunSeries:
    """The network's series of one record."""
    with open_run(path) as dataset:
        judge = judge_record(dataset)
        strength = recorded_strength(dataset)
        failed = judge.diagnosis(finished=dataset.attrs["status"] == "finished").failed
    metrics = {name: np.asarray(v, dtype=np.float64) for name, v in epoch_metrics(path).items()}
    return RunSeries(path, label or f"λ = {strength:.3g} ({path.stem})", strength, failed, judge.series, metrics)


def over_time(runs: Sequence[RunSeries], quantity: str, points: int = 200) -> Curves:
    """One quantity of the whole network over steps, averaged within at most ``points`` windows."""
    title, label, log_y = QUANTITIES[quantity]
    curves = []
    for run in runs:
        x, y = _thinned(run.series.step, _quantity(run.series, quantity), points)
        curves.append(Curve(run.label, x, y, run.failed))
    return Curves(title, "optimizer step", label, tuple(curves), log_y=log_y)


def _quantity(series: Series, quantity: str) -> Array:
    if quantity == "proportion":
        both = series.gradient + series.penalty
        return np.divide(series.gradient, both, out=np.full_like(both, np.nan), where=both > 0)
    name = {"gradient-closeup": "gradient"}.get(quantity, quantity)
    values: Array = getattr(series, name)
    return values


def _thinned(x: Array, y: Array, points: int) -> tuple[Array, Array]:
    """Means over windows of equal length; a window that is all NaN is left out."""
    size = max(1, -(-len(x) // points))
    edges = np.arange(0, len(x), size)
    seen = np.isfinite(y)
    counts = np.add.reduceat(seen, edges)
    sums = np.add.reduceat(np.where(seen, y, 0.0), edges)
    centres = np.add.reduceat(x, edges) / np.diff(np.append(edges, len(x)))
    keep = counts > 0
    return centres[keep], sums[keep] / counts[keep]


def accuracy_by_strength(groups: dict[str, Sequence[RunSeries]], metric: str = "accuracy") -> Curves:
    """The last value of an epoch metric against the strength, one line a group; means over equal strengths."""
    curves = []
    for label, runs in groups.items():
        by_strength: dict[float, list[float]] = {}
        for run in runs:
            if metric not in run.metrics or not np.isfinite(run.metrics[metric]).any():
                raise InputError(
                    f"{run.path} holds no epoch metric {metric!r}; call Recording.epoch(k, {metric}=…) to have one"
                )
            values = run.metrics[metric]
            if run.strength > 0:
                by_strength.setdefault(run.strength, []).append(float(values[np.isfinite(values)][-1]))
        x = np.array(sorted(by_strength))
        if not len(x):
            raise InputError("no run has a strength above 0, so there is nothing to set against the accuracy")
        curves.append(Curve(label, x, np.array([np.mean(by_strength[value]) for value in x])))
    return Curves("Accuracy against strength", "strength λ", metric, tuple(curves), log_x=True, points=True)
