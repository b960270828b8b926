"""Summaries of populations of weights, and of what penalties ask of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.report.curves import Array, Curve, Curves
from gradscope.report.layers import ALL, LayerChoice
from gradscope.report.summary import RunSeries
from gradscope.store.record import Record
from gradscope.types import InputError


def weight_histograms(runs: Sequence[RunSeries], choice: LayerChoice = ALL) -> Curves:
    """Draw the share of weights of each size: of one run at its first, middle and last sample; of several, at the last.

    Of the penalised weights, or of the layers that were chosen. The share of exact zeros, which has no place on a
    logarithmic axis, stands in the label.

    Returns:
        One panel.
    """
    curves = []
    for run in runs:
        with Record(run.path) as record:
            steps, counts = _counts(record, choice)
            edges = np.asarray(record.bins, dtype=np.float64)
        samples = [0, len(counts) // 2, -1] if len(runs) == 1 else [-1]
        for k in dict.fromkeys(i % len(counts) for i in samples):
            share = counts[k] / counts[k].sum()
            when = f"step {steps[k]}" if len(runs) == 1 else run.label
            label = f"{when} ({share[0]:.2%} are 0)" if share[0] > 0 else when
            curves.append(Curve(label, edges[2:], share[2:]))
    first, last = _filled(curves)
    cut = tuple(Curve(c.label, c.x[first:last], c.y[first:last], c.failed) for c in curves)
    where = str(choice) or "penalised weights"
    return Curves(
        f"Sizes of the weights ({where})", "|w|", "share of the weights, per factor of 4", cut,
        log_x=True, stairs=True, notes=("weights below 9e-13 are counted, and not drawn",),
    )  # fmt: skip


def _counts(record: Record, choice: LayerChoice) -> tuple[NDArray[np.int64], Array]:
    """Read steps [K] and counts [K, bin]: sums over the chosen parameters, in the rows that hold a sample."""
    name = "weight_histogram"
    if name not in record:
        raise InputError(f"{record.path} holds no weight histograms: record with preset='full'")
    chosen = choice.of(record)
    steps, counts = [], []
    for block in record.blocks((name,)):
        values = block[name][:, chosen].astype(np.float64)
        seen = ~np.isnan(values).reshape(len(values), -1).all(1)
        steps.append(block["step"][seen])
        counts.append(np.nansum(values[seen], axis=1))
    if not sum(map(len, steps)):
        raise InputError(f"{record.path} holds no weight histograms yet: they are sampled every 50th step by default")
    return np.concatenate(steps), np.concatenate(counts)


def _filled(curves: Sequence[Curve]) -> tuple[int, int]:
    """Return the first and the last bin that hold anything, and one beyond, which closes the last stair."""
    held = np.flatnonzero(np.max([curve.y for curve in curves], axis=0) > 0)
    if not len(held):
        return 0, len(curves[0].y)
    return max(0, int(held[0]) - 1), min(len(curves[0].y), int(held[-1]) + 2)


@dataclass(frozen=True)
class Shape:
    """Penalty as a function of one weight, and its ball of two.

    Attributes:
        name: of the penalty.
        w: places, [K].
        value: Ω, [K].
        gradient: ∂Ω/∂w, [K]; empty where there is none.
        ball_x: first of two weights with Ω = 1; empty for penalties that count.
        ball_y: second of them.
    """

    name: str
    w: Array
    value: Array
    gradient: Array
    ball_x: Array
    ball_y: Array


def penalty_shapes(shapes: Sequence[Shape]) -> list[Curves]:
    """Draw Ω of one weight, its gradient, and the ball Ω = 1 of two weights, one line a penalty."""
    value = [Curve(s.name, s.w, s.value) for s in shapes]
    slope = [Curve(s.name, s.w, s.gradient) for s in shapes]
    balls = [Curve(s.name, s.ball_x, s.ball_y) for s in shapes]
    span = float(max(np.abs(s.w).max() for s in shapes))
    return [
        Curves("Penalty of one weight", "w", "Ω(w)", tuple(value), y_range=(-0.05, span**2), keyed="never"),
        Curves("Its gradient", "w", "∂Ω/∂w", tuple(slope), y_range=(-2.2 * span, 2.2 * span), keyed="never"),
        Curves(
            "Two weights with Ω = 1", "w₁", "w₂", tuple(balls), x_range=(-1.5, 1.5), y_range=(-1.5, 1.5), square=True
        ),
    ]
