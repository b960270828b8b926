"""What others would have said of the same runs: the first step at which each rule stops a run, or None.

Thresholds as published: Keras `EarlyStopping` and Lightning `EarlyStopping` (patience 3 epochs, min_delta 0, on
the training loss), "mean |g| < 1e-7", AutoTrainer (shiningrain/AUTOTRAINER, `utils.py` and `monitor.py`), BTTackler
(thuml/BTTackler, `default_config.yaml`), Optuna's `MedianPruner` (5 start-up trials), thermoclaw
0.1.6 (`CollapseDetector`; on the runs of `third.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = dict[str, Any]


def epochs(loss: Array, batches: int) -> Array:
    """Mean loss of every whole epoch."""
    whole = len(loss) // batches
    return np.asarray(loss[: whole * batches].reshape(whole, batches).mean(1))


def plateau(rows: Rows, batches: int, patience: int = 3) -> int | None:
    """No new best training loss for this many epochs."""
    best, waited = np.inf, 0
    for i, loss in enumerate(epochs(rows["loss"].astype(np.float64), batches)):
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited >= patience:
            return (i + 1) * batches - 1
    return None


def tiny_gradient(rows: Rows, batches: int) -> int | None:
    """mean |g| over the network below 1e-7."""
    gradient = rows["loss_gradient_mean_abs"].astype(np.float64)
    return first((gradient * rows["numel"]).sum(1) / rows["numel"].sum() < 1e-7)


def autotrainer(rows: Rows, batches: int) -> int | None:
    """Checked at the end of every epoch: vanishing, exploding or not converging, from 30 % of the run for the last.

    Norms are estimated from mean |g|; its accuracy that has to rise by .01 in some epoch is replaced by a training
    loss that has to fall by 1 %.
    """
    gradient, numel = rows["loss_gradient_mean_abs"].astype(np.float64), rows["numel"]
    norms = (gradient * np.sqrt(numel))[:, matrices(rows)]
    loss = rows["loss"].astype(np.float64)
    by_epoch = epochs(loss, batches)
    for i, level in enumerate(by_epoch):
        step = (i + 1) * batches - 1
        with np.errstate(all="ignore"):
            ratio = norms[step, 0] / norms[step, -1]
        if not np.isfinite(level) or level >= 1e5 or not np.isfinite(norms[step]).all():
            return step
        fell = -np.diff(by_epoch[: i + 1]) / np.abs(by_epoch[:i])
        if step + 1 < 0.3 * len(loss) or i == 0 or fell.max() >= 0.01:
            continue
        return step if (ratio < 1e-3 and norms[step, 0] < 1e-4) or ratio > 70 or fell.max() < 0.01 else None
    return None


def bttackler(rows: Rows, batches: int) -> int | None:
    """Checked at the end of every epoch: exploding, vanishing (first half), slow convergence (first half)."""
    gradient = rows["loss_gradient_mean_abs"].astype(np.float64)[:, matrices(rows)]
    by_epoch = epochs(rows["loss"].astype(np.float64), batches)
    for i in range(len(by_epoch)):
        step = (i + 1) * batches - 1
        now = gradient[step]
        if not np.isfinite(now).all() or not np.isfinite(by_epoch[i]):
            return step
        with np.errstate(all="ignore"):
            quotient = float(np.median(now[:-1] / now[1:])) if (now > 0).all() else np.nan
        exploding = np.median(now) > 1e4 or quotient > 1000
        flat = i >= 2 and by_epoch[: i + 1].std() / by_epoch[: i + 1].mean() < 1e-4
        vanishing = np.median(now) < 1e-5 or not quotient >= 1e-4
        if exploding or (i < len(by_epoch) / 2 and (vanishing or flat)):
            return step
    return None


def thermoclaw(rows: Rows, batches: int) -> int | None:
    """The collapse rule of thermoclaw 0.1.6, each penalised tensor a layer, all of one kind (it sorts them by name).

    From the 20th step on the first quarter of the steps so far is held against the last, at least ten each. A layer
    whose gradient norm over weight norm has more than halved, its weights not grown, collapses; two of these speak, or
    one that lost a factor of 2.5. A layer that lost a fortieth of its norm shrinks; two of these speak.
    """
    held = np.asarray(rows["penalised"], dtype=bool)
    weight = rows["weight_norm"].astype(np.float64)[:, held]
    gradient = rows["loss_gradient_norm"].astype(np.float64)[:, held]
    seen = np.isfinite(weight + gradient).all(0)  # not one without a gradient, nor of a run that is not finite
    weight, ratio = weight[:, seen], gradient[:, seen] / (weight[:, seen] + 1e-30)
    sums = [np.cumsum(np.insert(values, 0, 0.0, axis=0), axis=0) for values in (ratio, weight)]
    for n in range(20, len(weight) + 1):
        part = max(10, n // 4)
        (r0, r1), (w0, w1) = ((s[part] / part, (s[n] - s[n - part]) / part) for s in sums)
        collapse = (r0 > 2 * r1) & (w1 <= w0)
        shrinks = (w1 < 0.975 * w0) & ~collapse
        if collapse.sum() > 1 or (collapse & (r0 > 2.5 * r1)).any() or shrinks.sum() > 1:
            return n - 1
    return None


def median_pruner(trials: Sequence[Rows], batches: int) -> list[int | None]:
    """For the runs of one configuration in the order in which they were made: pruned when the best epoch so far is
    worse than the median of the earlier runs at the same epoch.
    """
    seen: list[Array] = []
    found: list[int | None] = []
    for rows in trials:
        by_epoch = epochs(rows["loss"].astype(np.float64), batches)
        best = np.fmin.accumulate(np.nan_to_num(by_epoch, nan=np.inf))
        at = None
        if len(seen) >= 5:
            worse = best > np.median(np.nan_to_num(np.stack(seen), nan=np.inf), axis=0)
            hit = first(worse)
            at = None if hit is None else (hit + 1) * batches - 1
        found.append(at)
        seen.append(by_epoch)
    return found


def matrices(rows: Rows) -> list[int]:
    """Columns of the parameters that a penalty may act on: the larger of each layer's tensors."""
    names = [str(name) for name in rows["names"]]
    return [i for i, name in enumerate(names) if "bias" not in name and rows["numel"][i] > 64]


def first(hit: NDArray[Any]) -> int | None:
    """The first True."""
    return int(np.argmax(hit)) if hit.any() else None


RULES: dict[str, Callable[[Rows, int], int | None]] = {
    "loss plateau, 3 epochs": plateau,
    "mean|g| < 1e-7": tiny_gradient,
    "AutoTrainer": autotrainer,
    "BTTackler": bttackler,
}
