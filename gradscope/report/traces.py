"""Summaries of what changes within a run: strengths over time, learning curves of training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gradscope import quantities
from gradscope.quantities import strength_axis
from gradscope.report.curves import Array, Curve, Curves
from gradscope.report.summary import RunSeries
from gradscope.store.record import Record
from gradscope.types import InputError

#: Corners of a strength that are drawn; more of them than a page can show are thinned.
CORNERS = 2000
#: How a metric of the validation data may be called, and the same of the training data, for a metric M.
VALIDATION = ("{}", "val_{}", "validation_{}", "valid_{}", "test_{}")
TRAINING = ("train_{}", "training_{}")


def strength_traces(runs: Sequence[RunSeries], against: Literal["step", "epoch"] = "step") -> Curves:
    """Draw the strength over time of every run, one line a parameter group that it acts on."""
    curves = []
    for run in runs:
        with Record(run.path) as record:
            groups = np.unique(record.info.group[record.info.penalised])
            table = record.column("strength")[:, groups].astype(np.float64)
        if not len(groups):
            raise InputError(f"{run.path} holds no penalty: set weight_decay, or call gradscope.regularize")
        x = run.epoch if against == "epoch" else run.series.step
        distinct = {tuple(column): group for group, column in zip(groups, table.T, strict=True)}
        for column, group in distinct.items():
            label = f"{run.label}, group {group}" if len(distinct) > 1 else run.label
            curves.append(Curve(label, *_corners(x, np.array(column)), failed=run.failed))
    values = np.concatenate([curve.y for curve in curves])
    acting = values[values > 0]
    log_y = len(acting) > 0 and acting.max() / acting.min() > 20
    notes = ("where a line is missing, the strength is 0",) if log_y and (values == 0).any() else ()
    if log_y:
        curves = [Curve(c.label, c.x, np.where(c.y > 0, c.y, np.nan), c.failed) for c in curves]
    x_label = "epoch" if against == "epoch" else "optimizer step"
    return Curves(
        f"{quantities.STRENGTH.title} over time",
        x_label,
        strength_axis(run.penalty for run in runs),
        tuple(curves),
        log_y=log_y,
        stairs=True,
        y_range=None if log_y else (0.0, 1.1 * max(float(values.max()), 1e-12)),
        notes=notes,
    )


def _corners(x: Array, y: Array) -> tuple[Array, Array]:
    """Select the places where a strength changes, and both ends."""
    changes = np.flatnonzero(np.diff(y, prepend=np.nan, append=np.nan) != 0)
    changes = np.unique(np.append(changes[changes < len(y)], len(y) - 1))
    if len(changes) > CORNERS:
        changes = np.unique(np.append(changes[:: -(-len(changes) // CORNERS)], len(y) - 1))
    return x[changes], y[changes]


def learning_curves(runs: Sequence[RunSeries], metric: str = "accuracy") -> list[Curves]:
    """Draw loss and another metric over epochs, training and validation side by side.

    The training loss is the mean over the steps of an epoch where no metric ``train_loss`` was recorded. A panel is
    drawn if at least one run has something for it.

    Args:
        runs: the records.
        metric: the other metric.

    Returns:
        One panel or two.

    Raises:
        InputError: epochs are unknown, or nothing is there but the training loss.
    """
    for run in runs:
        if not np.isfinite(run.epoch).any():
            raise InputError(
                f"{run.path} knows no epochs: call Recording.epoch(k, {metric}=…) when epoch k begins, with what the "
                f"validation gave"
            )
    panels = [_panel(runs, name) for name in dict.fromkeys(("loss", metric))]
    if not any("validation" in curve.label for panel in panels for curve in panel.curves):
        raise InputError(
            f"{runs[0].path} holds no validation metric {metric!r}: call Recording.epoch(k, {metric}=…, val_loss=…)"
        )
    return [panel for panel in panels if panel.curves]


def _panel(runs: Sequence[RunSeries], metric: str) -> Curves:
    curves, notes = [], []
    for k, run in enumerate(runs):
        training, validation = _find(run, TRAINING, metric), _find(run, VALIDATION, metric)
        if metric == "loss" and training is None:
            training = _loss_by_epoch(run)
        kinds = {"training": (training, f"train_{metric}"), "validation": (validation, _asked(metric))}
        for kind, (found, name) in kinds.items():
            if found is None:
                notes.append(f"{run.path} holds no {kind} {metric}: give Recording.epoch(k, {name}=…)")
                continue
            label = f"{run.label}, {kind}" if len(runs) > 1 else kind
            dashed = int(kind == "training")
            curves.append(Curve(label, *found, failed=run.failed and not dashed, colour=k, dash=dashed))
    values = np.concatenate([curve.y for curve in curves]) if curves else np.ones(1)
    log_y = metric == "loss" and values.min() > 0 and values.max() > 5 * values.min()
    title = f"{metric[:1].upper()}{metric[1:]}"
    return Curves(title, "epoch", metric, tuple(curves), log_y=bool(log_y), keyed="always", notes=tuple(notes))


def _asked(metric: str) -> str:
    return "val_loss" if metric == "loss" else metric


def _find(run: RunSeries, patterns: Sequence[str], metric: str) -> tuple[Array, Array] | None:
    for pattern in patterns:
        values = run.metrics.get(pattern.format(metric))
        if values is not None and np.isfinite(values).any():
            seen = np.isfinite(values)
            return run.metrics["epoch"][seen], values[seen]
    return None


def _loss_by_epoch(run: RunSeries) -> tuple[Array, Array] | None:
    seen = np.isfinite(run.series.loss) & np.isfinite(run.epoch)
    if not seen.any():
        return None
    epochs, where = np.unique(np.floor(run.epoch[seen]), return_inverse=True)
    return epochs, np.bincount(where, run.series.loss[seen]) / np.bincount(where)
