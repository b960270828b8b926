"""Summarise records for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradscope import quantities
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.series import GrowingSeries, Series, network_series
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import Strength, strength_axis
from gradscope.report.curves import Array, Curve, Curves
from gradscope.report.layers import ALL, LayerChoice
from gradscope.report.strengths import Sample, accuracy_against_strength
from gradscope.store.record import Record
from gradscope.store.settings import settings_of
from gradscope.types import InputError

#: So many lines have a colour and a dash of their own; more are told apart by a scale of colours.
LINES = 7


@dataclass(frozen=True)
class RunSeries:
    """One record, ready for figures.

    Attributes:
        path: the file.
        label: name of the run.
        strength: λ.
        failed: whether it does not learn.
        series: rows, of the whole network or of chosen layers.
        metrics: of the epochs.
        penalty: its name.
        schedule: its text.
        sparsity: share of penalised weights that are 0 at the end, or NaN.
        epoch: epoch of each row with its fraction, [N], NaN where epochs are unknown.
        diagnosis: of the whole network.
        settings: as one flat table.
        baseline: loss of the best constant answer.
        of: the layers that the series are of, where some were chosen.
    """

    path: Path
    label: str
    strength: float
    failed: bool
    series: Series
    metrics: dict[str, Array]
    penalty: str
    schedule: str
    sparsity: float
    epoch: Array
    diagnosis: Diagnosis
    settings: Mapping[str, str]
    baseline: float = float("nan")
    of: str = ""


#: What is drawn over steps, by the name of its figure.
OVER_TIME = {
    **{q.word: q for q in quantities.COMPARED},
    **{f"{q.word}-closeup": q for q in quantities.COMPARED if q.closeup},
}


def load_run(path: Path, label: str | None = None, choice: LayerChoice = ALL) -> RunSeries:
    """Read the series of one record: of the whole network or of chosen layers; the verdict is of the whole."""
    with Record(path) as record:
        judge = judge_record(record)
        diagnosis = judge.diagnosis(finished=record.finished)
        label = label or f"{record.strength.short} ({path.stem})"
        return RunSeries(
            path, label, record.strength.value, diagnosis.failed, _series_of(record, choice) or judge.series,
            {name: np.asarray(v, dtype=np.float64) for name, v in record.metrics.items()},
            record.penalty, record.schedule, record.sparsity, _fractional_epoch(record.column("epoch")), diagnosis,
            settings_of(record), record.info.baseline_loss, str(choice),
        )  # fmt: skip


def _series_of(record: Record, choice: LayerChoice) -> Series | None:
    """Read the series of the layers that were chosen; None where none were."""
    if not choice.anything:
        return None
    mask = np.zeros(len(record.info.parameters), dtype=bool)
    mask[choice.of(record)] = True
    info, found = replace(record.info, penalised=mask), GrowingSeries()
    for block in record.blocks(quantities.JUDGED):
        found.extend(network_series(block, info))
    return found.view()


def _fractional_epoch(epoch: NDArray[Any]) -> Array:
    """Spread rows over their epoch evenly; the last one may be unfinished, and counts as long as the one before."""
    starts = np.flatnonzero(np.diff(epoch, prepend=-2))
    lengths = np.diff(np.append(starts, len(epoch)))
    if len(lengths) > 1:
        lengths[-1] = max(lengths[-1], lengths[-2])
    which = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(epoch))))
    within = (np.arange(len(epoch)) - starts[which]) / lengths[which]
    return np.where(epoch >= 0, epoch + within, np.nan)


def labelled(runs: Sequence[RunSeries]) -> list[str]:
    """Return short names: the strength, and as much more as it takes to tell the runs apart."""
    parts = [[Strength(r.strength, r.penalty).short if r.strength > 0 else "no penalty"] for r in runs]
    for more in ("penalty", "schedule"):
        if len({getattr(run, more) for run in runs}) > 1:
            for part, run in zip(parts, runs, strict=True):
                text = getattr(run, more)
                part.append("from the start" if text == "constant" else text)
    names = [", ".join(part) for part in parts]
    return [f"{n} ({r.path.stem})" if names.count(n) > 1 else n for n, r in zip(names, runs, strict=True)]


def over_time(
    runs: Sequence[RunSeries], quantity: str, points: int = 200, against: Literal["step", "epoch"] = "step"
) -> Curves:
    """Draw one quantity of the whole network over steps or epochs, averaged within at most ``points`` windows.

    More than seven runs of several strengths are told apart by shades instead of colours.

    Returns:
        One panel.
    """
    what, title, log_y = _drawn(quantity)
    shades, scale = _shades(runs)
    curves = []
    for run, shade in zip(runs, shades, strict=True):
        x, y = _thinned(_axis(run, against), values_of(run, quantity), points)
        curves.append(Curve(run.label, x, y, run.failed, shade=shade))
    x_label = "epoch" if against == "epoch" else "optimizer step"
    title += f" of {runs[0].of}" if runs[0].of else ""
    return Curves(title, x_label, what.axis, tuple(curves), log_y=log_y, scale=scale, legend=_legend(runs))


def values_of(run: RunSeries, quantity: str) -> Array:
    """Return one quantity of a run, [N]; raise `InputError`, with how to record it, if the record does not hold it."""
    what = OVER_TIME[quantity]
    values: Array = getattr(run.series, what.word)
    if not np.isfinite(values).any():
        raise InputError(f"{run.path} holds no {what.word}: {what.missing}")
    return values


def _drawn(quantity: str) -> tuple[quantities.Quantity, str, bool]:
    """Return the quantity of this figure, its title, and whether its axis is logarithmic."""
    what = OVER_TIME[quantity]
    closeup = quantity != what.word
    return what, what.title + (", log scale" if closeup else ""), what.log and (closeup or not what.closeup)


def _axis(run: RunSeries, against: str) -> Array:
    if against == "epoch" and not np.isfinite(run.epoch).any():
        raise InputError(f"{run.path} knows no epochs: give record(…, steps_per_epoch=n), or call Recording.epoch")
    return run.epoch if against == "epoch" else run.series.step


def _legend(runs: Sequence[RunSeries]) -> str:
    return "L2: λ is half of it" if len(runs) > 1 and all(quantities.is_l2(run.penalty) for run in runs) else ""


def _shades(runs: Sequence[RunSeries]) -> tuple[list[float | None], tuple[str, float, float] | None]:
    strengths = np.array([run.strength for run in runs])
    acting = strengths[strengths > 0]
    if len(runs) <= LINES or len(np.unique(acting)) < 2:
        return [None] * len(runs), None
    low, high = float(acting.min()), float(acting.max())
    place = np.log(np.maximum(strengths, low) / low) / np.log(high / low)
    return place.tolist(), (strength_axis(run.penalty for run in runs), low, high)


def _thinned(x: Array, y: Array, points: int) -> tuple[Array, Array]:
    """Average over windows of equal length; a window that is all NaN is left out."""
    size = max(1, -(-len(x) // points))
    edges = np.arange(0, len(x), size)
    seen = np.isfinite(y)
    counts = np.add.reduceat(seen, edges)
    sums = np.add.reduceat(np.where(seen, y, 0.0), edges)
    centres = np.add.reduceat(x, edges) / np.diff(np.append(edges, len(x)))
    keep = counts > 0
    return centres[keep], sums[keep] / counts[keep]


# -- against the strength ---------------------------------------------------------------------------


def by_setting(runs: Sequence[RunSeries]) -> dict[str, list[RunSeries]]:
    """Group the runs by penalty and schedule; one group without a name if these do not differ."""
    names = [("penalty", {run.penalty for run in runs}), ("schedule", {run.schedule for run in runs})]
    differing = [name for name, values in names if len(values) > 1]
    groups: dict[str, list[RunSeries]] = {}
    for run in runs:
        words = [getattr(run, name) for name in differing]
        groups.setdefault(", ".join("from the start" if w == "constant" else w for w in words), []).append(run)
    return groups


def sample(label: str, runs: Sequence[RunSeries], metric: str = "accuracy") -> Sample:
    """Collect strength, last value of an epoch metric and sparsity of each run."""
    values = [last_metric(run, metric) for run in runs]
    return Sample.of(label, [run.strength for run in runs], values, [run.sparsity for run in runs])


def last_metric(run: RunSeries, metric: str) -> float:
    """Return the last finite value of an epoch metric; raise `InputError` where there is none."""
    values = run.metrics.get(metric, np.empty(0))
    finite = values[np.isfinite(values)]
    if not len(finite):
        known = ", ".join(sorted(set(run.metrics) - {"epoch"}))
        raise InputError(
            f"{run.path} holds no epoch metric {metric!r}"
            + (f", only {known}; choose one with --metric" if known else "")
            + f"; call Recording.epoch(k, {metric}=…) to have one"
        )
    return float(finite[-1])


def accuracy_by_strength(groups: Mapping[str, Sequence[RunSeries]], metric: str = "accuracy") -> Curves:
    """Draw the last value of an epoch metric against the strength, one line a group; means over equal strengths."""
    penalties = {run.penalty for runs in groups.values() for run in runs}
    samples = [sample(label, runs, metric) for label, runs in groups.items()]
    return accuracy_against_strength(samples, quantity=metric, penalty="".join(penalties))


def ends_by_strength(groups: Mapping[str, Sequence[RunSeries]], quantity: str) -> Curves:
    """Draw a quantity at the end of the runs (the mean of the last 5 % of the rows) against the strength."""
    penalties = {run.penalty for runs in groups.values() for run in runs}
    samples = []
    for label, runs in groups.items():
        ends = [_end(values_of(run, quantity)) for run in runs]
        samples.append(Sample.of(label, [run.strength for run in runs], ends))
    what, _, log_y = _drawn(quantity)
    shown = accuracy_against_strength(samples, quantity=what.axis, penalty="".join(penalties), log_y=log_y)
    return replace(shown, title=f"{what.title} at the end")


def _end(values: Array) -> float:
    last = values[-max(1, len(values) // 20) :]
    return float(np.mean(last[np.isfinite(last)])) if np.isfinite(last).any() else np.nan
