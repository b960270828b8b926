"""Features of a probe: some twenty numbers without units, the same at every scale of loss, time and width.

Times are in the penalty's own time τ, losses are shares of the baseline. Nothing is needed that a record does not hold;
the outputs' spread would add little (../shared/facts/prediction.md of the project: .118 against .124 decades).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradscope.prediction.rows import Array, Probe

#: No number is larger: what lies beyond is all the same.
FAR = 12.0

#: Losses are smoothed over so many rows.
SMOOTH = 5
#: Shares of the baseline whose first crossing counts.
CROSSINGS = (0.9, 0.7, 0.4)

NAMES = (
    "folding", "length", "last_loss", "lowest_loss", "rise", "baseline",
    *(f"crossing_{share}" for share in CROSSINGS), *(f"never_{share}" for share in CROSSINGS),
    "gradient_slope", "weight_slope", "balance", "highest_balance", "gradient_change", "weight_change",
    "weakest_weight", "strongest_weight", "weakest_gradient", "depth", "adaptive", "momentum", "first_loss",
    "loss_slope", "first_ratio", "rms_weight", "first_weight_gradient",
)  # fmt: skip


def smoothed(loss: Array) -> Array:
    """Compute running means of `SMOOTH` losses, [T]; over fewer at the first rows."""
    total = np.cumsum(np.nan_to_num(loss, nan=np.inf, posinf=np.inf))
    before = np.concatenate([np.zeros(SMOOTH), total[:-SMOOTH]]) if len(loss) > SMOOTH else np.zeros(len(loss))
    with np.errstate(invalid="ignore"):
        return np.asarray((total - before[: len(loss)]) / np.minimum(np.arange(len(loss)) + 1, SMOOTH))


def features(probe: Probe) -> Array:
    """Compute the numbers of `NAMES`, [F], all finite for a probe of finite rows under a penalty."""
    rows = len(probe.step)
    third = slice(rows - max(rows // 3, 4), rows)
    time = probe.step + 1
    length, tau = float(time[-1]), probe.folding
    loss = smoothed(probe.loss) / probe.baseline
    gradient, weight = np.sqrt((probe.gradient**2).sum(1)), np.sqrt((probe.weight**2).sum(1))
    crossings, never = [], []
    for share in CROSSINGS:
        below = np.flatnonzero(loss[SMOOTH - 1 :] < share)
        at = time[below[0] + SMOOTH - 1] if len(below) else 1.7 * (length + 3) - 3
        crossings.append(_log((at + 3) / tau))
        never.append(float(not len(below)))
    push = (
        2 * probe.strength * probe.weight**2
        if probe.penalty != "l1"
        else probe.strength * probe.weight_size * probe.numel
    )
    balance = -probe.dot.sum(1) / np.maximum(push.sum(1), 1e-30)
    each_w, each_g = (
        _log(x[third].mean(0) / np.maximum(x[:SMOOTH].mean(0), 1e-30)) for x in (probe.weight, probe.gradient)
    )
    found = [
        _log(tau), _log(length / tau), min(loss[-1], 5.0), min(loss[SMOOTH - 1 :].min(), 5.0),
        min(loss[-1] - loss[SMOOTH - 1 :].min(), 5.0), _log(probe.baseline), *crossings, *never,
        _slope(time[third] / tau, _log(gradient[third])), _slope(time[third] / tau, _log(weight[third])),
        _squeezed(np.median(balance[third])), _squeezed(balance.max()),
        _log(gradient[third].mean() / gradient[:SMOOTH].mean()), _log(weight[-1] / weight[0]),
        each_w.min(), each_w.max(), each_g.min(), _log(len(probe.numel)), float(probe.adaptive), probe.momentum,
        min(loss[SMOOTH - 1], 10.0), _slope(time[third] / length, loss[third]),
        _log(push[0].sum() / np.maximum(probe.gradient[0] * probe.weight[0], 1e-30).sum()),
        _log(np.sqrt((probe.weight[0] ** 2).sum() / probe.numel.sum() * (probe.numel.sum() / len(probe.numel)) ** 0.5)),
        _log((probe.gradient[:SMOOTH].mean(0) / np.maximum(probe.weight[0], 1e-30)).mean()),
    ]  # fmt: skip
    return _bounded(found)


FREE_NAMES = (
    "length", "last_loss", "baseline", "depth", "adaptive", "momentum", "first_loss", "rate", "rms_weight",
    "first_weight_gradient", "entries", "gradient_change", "weight_change", "pull", "crossing_0.9", "crossing_0.7",
)  # fmt: skip


def free_features(probe: Probe) -> Array:
    """Compute the numbers of `FREE_NAMES` of a run without a penalty, [F]: what is known before any probe."""
    loss = smoothed(probe.loss) / probe.baseline
    gradient, weight = np.sqrt((probe.gradient**2).sum(1)), np.sqrt((probe.weight**2).sum(1))
    first = np.maximum(probe.weight[0], 1e-30)
    gain = 1.0 if probe.adaptive else 1 / (1 - min(probe.momentum, 0.9999))
    crossings = []
    for share in CROSSINGS[:2]:
        below = np.flatnonzero(loss[SMOOTH - 1 :] < share)
        crossings.append(_log(probe.step[below[0] + SMOOTH - 1] + 1 if len(below) else 1.7 * (probe.step[-1] + 1)))
    return _bounded([
        _log(probe.step[-1] + 1), loss[-1], _log(probe.baseline), _log(len(probe.numel)), float(probe.adaptive),
        probe.momentum, loss[SMOOTH - 1], _log(float(np.nanmean(probe.rate)) * gain),
        _log(np.sqrt((first**2).sum() / len(first))), _log((probe.gradient[:SMOOTH].mean(0) / first).mean()),
        _log(probe.numel.sum()), _log(gradient[-SMOOTH:].mean() / gradient[:SMOOTH].mean()),
        10 * _log(weight[-1] / weight[0]), np.arcsinh(float((-probe.dot.sum(1) / weight**2).max()) * 100), *crossings,
    ])  # fmt: skip


def _bounded(found: list[Any]) -> Array:
    """Clip to finite numbers, no further out than any forest asks about."""
    return np.clip(np.nan_to_num(np.asarray(found, dtype=np.float64), nan=0.0, posinf=FAR, neginf=-FAR), -FAR, FAR)


def _log(x: Array | float) -> Array:
    return np.log(np.maximum(x, 1e-30))


def _squeezed(x: float) -> float:
    """Compress a number, keeping its sign, so that a balance of a thousand does not count as much as all others."""
    return float(np.arcsinh(x))


def _slope(x: Array, y: Array) -> float:
    """Fit a straight line and return its slope; 0 where all points lie at one x."""
    x = x - x.mean()
    square = float((x**2).sum())
    return float(np.clip((x * (y - y.mean())).sum() / square, -50, 50)) if square > 0 else 0.0
