"""Columns that rules need and no record holds: each follows from the rows so far, in bounded memory.

Only order statistics, running maxima and sums taken strictly one after the other are used: how the rows were cut into
blocks changes no bit of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gradscope.diagnosis.circumstances import GONE
from gradscope.diagnosis.rules.finding import Array
from gradscope.diagnosis.series import layer_push
from gradscope.run_info import RunInfo

Rows = Mapping[str, NDArray[Any]]

#: Rows, or logged losses, that a run begins with: what comes later is compared with these.
FIRST = 16
#: Logged losses that a spike is compared with.
BEFORE = 32
#: Names of a validation loss, in `Recording.epoch` or in `Recording.log`; the first that is there counts.
VALIDATION = ("val_loss", "validation_loss", "valid_loss", "eval_loss", "test_loss")


class Losses:
    """Levels of the loss, which may be logged less often than rows are recorded.

    `initial_loss`: median of the first 16 losses; `loss_level`: of the last 16; `loss_before`, `loss_spread`: the
    median of the 32 before and their median distance from it; `loss_last`: the last of them. `loss_steady`: the median
    of the last 32, which the samples of small batches move less.
    """

    def __init__(self) -> None:
        self._held = np.empty(0)
        self._count = 0
        self._first = np.empty(0)
        self._level, self._steady = _Carried(), _Carried()

    def columns(self, loss: Array) -> dict[str, Array]:
        """Compute the columns of a block, [N] each."""
        n = len(loss)
        at = np.flatnonzero(np.isfinite(loss))
        known = np.concatenate([self._held, loss[at]])
        self._first = np.concatenate([self._first, loss[at]])[:FIRST] if len(self._first) < FIRST else self._first
        before, spread, level, last, steady = (np.full(n, np.nan) for _ in range(5))
        old = len(self._held)
        if len(known) > BEFORE:
            windows = sliding_window_view(known, BEFORE)[:-1]
            middle = np.median(windows, axis=1)
            rows = at[BEFORE - old :] if old < BEFORE else at
            before[rows], last[rows] = middle, windows[:, -1]
            spread[rows] = np.median(np.abs(windows - middle[:, None]), axis=1)
        for length, column in ((FIRST, level), (BEFORE, steady)):
            if len(known) >= length:
                levels = np.median(sliding_window_view(known, length), axis=1)
                new = min(len(at), len(levels))
                if new:
                    column[at[len(at) - new :]] = levels[len(levels) - new :]
        self._held = known[-BEFORE:]
        initial = np.where(self._count + np.cumsum(np.isfinite(loss)) >= FIRST, self._start, np.nan)
        self._count += len(at)
        return {
            "loss_before": before,
            "loss_spread": spread,
            "loss_last": last,
            "loss_level": self._level.on(level),
            "loss_steady": self._steady.on(steady),
            "initial_loss": initial,
        }

    @property
    def _start(self) -> float:
        return float(np.median(self._first)) if len(self._first) == FIRST else np.nan


class _Carried:
    """Last value that is known, in every row."""

    def __init__(self) -> None:
        self._last = np.nan

    def on(self, values: Array) -> Array:
        """Repeat it over the next rows, [N]."""
        whole = np.concatenate([[self._last], values])
        at = np.maximum.accumulate(np.where(np.isnan(whole), 0, np.arange(len(whole))))
        self._last = float(whole[at[-1]])
        return np.asarray(whole[at][1:])


class PenaltyShares:
    """What the penalty adds to the gradients and to the loss.

    `penalty_share` [N]: Σ|λ∂Ω/∂w| over the sum of both gradients of what is penalised, the median of the last 16 rows;
    where an adaptive optimizer decays beside its step, of the two steps, whatever the size of the gradient.
    `penalty_height` [N]: what the penalty adds to the loss that is minimised, ½⟨w, λ∂Ω/∂w⟩ for L2; NaN where it acts
    beside an adaptive step, and no such loss is.
    """

    def __init__(self) -> None:
        self._held = np.empty(0)

    def columns(self, rows: Rows, info: RunInfo) -> dict[str, Array]:
        """Compute the columns of a block where penalties were recorded."""
        if "penalty_gradient_mean_abs" not in rows or not len(info.matrices):
            return {}
        penalty = np.asarray(rows["penalty_gradient_mean_abs"], dtype=np.float64)
        recorded = rows.get("loss_gradient_mean_abs")
        gradient = np.full(penalty.shape, np.nan) if recorded is None else np.asarray(recorded, dtype=np.float64)
        adaptive, beside = (info.of_groups(np.array(values)) > 0 for values in (info.adaptive, info.beside))
        pull = np.where(adaptive & beside, np.where(gradient > 0, 1.0, np.nan), gradient)
        counted = np.where(np.isfinite(penalty + pull) & info.penalised & info.matrices, info.numel, 0.0)
        held, pulled = ((np.nan_to_num(values) * counted).sum(1) for values in (penalty, pull))
        with np.errstate(divide="ignore", invalid="ignore"):
            now = np.where(held > 0, held / (held + pulled), np.nan)
        push = layer_push(rows, info)
        height = np.full(len(now), np.nan)
        if push is not None and not (adaptive & beside & info.penalised).any():
            height = np.where(info.penalised, np.nan_to_num(push), 0.0).sum(1) * (0.5 if info.penalty == "l2" else 1.0)
        return {"penalty_share": self._middle(now), "penalty_height": height}

    def _middle(self, now: Array) -> Array:
        at = np.flatnonzero(np.isfinite(now))
        known = np.concatenate([self._held, now[at]])
        found = np.full(len(now), np.nan)
        if len(known) >= FIRST and len(at):
            middles = np.median(sliding_window_view(known, FIRST), axis=1)
            new = min(len(at), len(middles))
            found[at[len(at) - new :]] = middles[len(middles) - new :]
        self._held = known[-(FIRST - 1) :]
        return found


class Past:
    """Loss level of some time ago, `loss_then` [N].

    At the last of the row numbers 16, 24, 36, … that lies at two thirds of the rows so far or before; NaN until there
    is one.
    """

    GROWTH = 1.5

    def __init__(self) -> None:
        self._numbers, self._levels = [FIRST], [np.nan]

    def columns(self, level: Array, number: NDArray[np.int64]) -> dict[str, Array]:
        """Compute the column from `loss_level` and the number of each row, counted from 0."""
        if not len(number):
            return {"loss_then": np.empty(0)}
        while self._numbers[-1] <= number[-1]:
            if self._numbers[-1] >= number[0]:
                self._levels[-1] = float(level[self._numbers[-1] - number[0]])
            self._numbers.append(int(self.GROWTH * self._numbers[-1]))
            self._levels.append(np.nan)
        at = np.searchsorted(self._numbers, number / self.GROWTH, side="right") - 1
        then = np.where(at >= 0, np.array(self._levels)[at], np.nan)
        past = max(int(at[-1]), 0)  # nobody asks for what lies before
        del self._numbers[:past], self._levels[:past]
        return {"loss_then": then}


class Weights:
    """Changes of the weights.

    `weight_same` [N, P]: 1 where every number of a tensor is that of the row before. `weight_growth` [N, P]: its norm
    over the largest of the first 16 rows, and over a tenth of what entries as large as those of the largest tensor
    would give it (biases begin at 0). `weight_kept` [N, P]: its norm over the largest so far.

    Args:
        numel: entries of each, [P].
    """

    NAMES = ("weight_mean_abs", "weight_norm", "weight_max_abs")
    SMALL = 0.1

    def __init__(self, numel: Array) -> None:
        self._entries = np.sqrt(np.maximum(numel, 1.0))
        self._last: dict[str, Array] = {}
        self._largest: Array | None = None
        self._peak: Array | None = None

    def columns(self, rows: Rows, number: NDArray[np.int64]) -> dict[str, Array]:
        """Compute the columns of a block. ``number``: of each row, counted from 0."""
        found: dict[str, Array] = {}
        same: Array | None = None
        for name in self.NAMES:
            if name not in rows or not len(number):
                continue
            values = np.asarray(rows[name], dtype=np.float64)
            last = self._last.get(name, np.full(values.shape[1], np.nan))
            before = np.concatenate([last[None], values[:-1]])
            equal = np.where(np.isnan(before) | np.isnan(values), np.nan, before == values)
            same = equal if same is None else np.fmin(same, equal)
            self._last[name] = values[-1].copy()
        if same is not None:
            found["weight_same"] = same
        if "weight_norm" in rows and len(number):
            norm = np.asarray(rows["weight_norm"], dtype=np.float64)
            found |= {"weight_growth": self._growth(norm, number), "weight_kept": self._kept(norm)}
        return found

    def _growth(self, norm: Array, number: NDArray[np.int64]) -> Array:
        largest = np.zeros(norm.shape[1]) if self._largest is None else self._largest
        early = norm[number < FIRST]
        if len(early):
            largest = np.fmax(largest, np.fmax.reduce(early, axis=0))
        self._largest = largest
        finite = np.where(np.isfinite(largest), largest, 0.0)
        largest = np.fmax(largest, self.SMALL * self._entries * (finite / self._entries).max(initial=0.0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            growth = np.where(largest > 0, norm / largest, np.nan)
        return np.where((number >= FIRST)[:, None], growth, np.nan)

    def _kept(self, norm: Array) -> Array:
        before = norm[:1] if self._peak is None else self._peak[None]
        peak = np.fmax.accumulate(np.concatenate([before, norm]))[1:]
        self._peak = peak[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(peak > 0, norm / peak, np.nan)


class Signals:
    """How much of a module's output depends on the input.

    `signal_kept` [N, M]: the spread of a module's output over samples, of its largest so far. `signal_was` [N, M]: the
    largest share of its mean size that this spread has been.
    """

    def __init__(self) -> None:
        self._peak: Array | None = None
        self._share: Array | None = None

    def columns(self, rows: Rows) -> dict[str, Array]:
        """Compute the columns of a block where activations were recorded."""
        if "activation_std" not in rows or not len(rows["activation_std"]):
            return {}
        std = np.asarray(rows["activation_std"], dtype=np.float64)
        before = np.full((1, std.shape[1]), np.nan) if self._peak is None else self._peak[None]
        peak = np.fmax.accumulate(np.concatenate([before, std]))[1:]
        self._peak = peak[-1]
        found = {}
        with np.errstate(divide="ignore", invalid="ignore"):
            found["signal_kept"] = np.where(peak > 0, std / peak, np.nan)
            if "activation_mean_abs" in rows:
                share = std / np.asarray(rows["activation_mean_abs"], dtype=np.float64)
                was = share[:1] if self._share is None else self._share[None]
                found["signal_was"] = np.fmax.accumulate(np.concatenate([was, share]))[1:]
                self._share = found["signal_was"][-1]
        return found


class Rates:
    """Rows since the learning rate of every group fell below a share of its largest, `rate_gone` [N]; 0 above."""

    def __init__(self) -> None:
        self._peak: Array | None = None
        self._since = 0

    def columns(self, rows: Rows) -> dict[str, Array]:
        """Compute the column of a block where learning rates were recorded."""
        if "learning_rate" not in rows or not len(rows["learning_rate"]):
            return {}
        rate = np.nan_to_num(np.asarray(rows["learning_rate"], dtype=np.float64))
        before = np.zeros((1, rate.shape[1])) if self._peak is None else self._peak[None]
        peak = np.maximum.accumulate(np.concatenate([before, rate]))[1:]
        self._peak = peak[-1]
        place = np.arange(len(rate))
        there = (rate > GONE * peak).any(1) | ~peak.any(1)
        last = np.maximum.accumulate(np.where(there, place, -1))
        since = np.where(last >= 0, place - last, self._since + place + 1)
        self._since = int(since[-1])
        return {"rate_gone": since.astype(np.float64)}


class Epochs:
    """Ends of epochs, `epoch_end` [N]: 1 in the row at which the epoch before had ended.

    Its batch may be a small rest.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._place, self._length = -1, 0  # of the last row in its epoch; rows of the epoch before

    def columns(self, rows: Rows) -> dict[str, Array]:
        """Compute the column of a block where epochs are known."""
        if "epoch" not in rows:
            return {}
        epoch = np.asarray(rows["epoch"], dtype=np.int64)
        found = np.zeros(len(epoch))
        before = epoch[:1] if self._epoch is None else np.array([self._epoch])
        starts = {int(i) for i in np.flatnonzero(np.diff(epoch, prepend=before))}
        for start, stop in pairwise(sorted({0, *starts, len(epoch)})):
            if start in starts:
                self._place, self._length = -1, self._place + 1
            end = start + self._length - 2 - self._place
            if start <= end < stop and self._length > 1:
                found[end] = 1.0
            self._place += stop - start
        if len(epoch):
            self._epoch = int(epoch[-1])
        return {"epoch_end": found}


class Evaluations:
    """Losses on other data, beside the training loss.

    `validation`, `training`: the loss on other data, and the mean training loss since the one before it, in the rows
    where one became known; `best_validation`, `training_at_best`: of those before. A metric of epoch k (``of_epochs``)
    counts from the first row of a later epoch.
    """

    def __init__(self, of_epochs: Mapping[int, float]) -> None:
        self._of_epochs = of_epochs
        self._epoch: int | None = None
        self._sum, self._count = 0.0, 0
        self._best, self._training_at_best = np.nan, np.nan

    def columns(self, rows: Rows, loss: Array) -> dict[str, Array]:
        """Compute the columns of a block, [N] each."""
        n = len(loss)
        names = ("validation", "training", "best_validation", "training_at_best")
        found = {name: np.full(n, np.nan) for name in names}
        done = 0
        for row, value, end in self._taken(rows, n):
            self._add(loss[done:end])
            done = end
            mean = self._sum / self._count if self._count else np.nan
            now = (value, mean, self._best, self._training_at_best)
            for name, number in zip(names, now, strict=True):
                found[name][row] = number
            if not value >= self._best:
                self._best, self._training_at_best = value, mean
            self._sum, self._count = 0.0, 0
        self._add(loss[done:])
        return found

    def _taken(self, rows: Rows, n: int) -> list[tuple[int, float, int]]:
        """Return row, value, and the row before which the training losses that belong to it end."""
        taken: list[tuple[int, float, int]] = []
        logged = next((rows[name] for name in VALIDATION if name in rows), None)
        if logged is not None:
            taken = [(int(i), float(logged[i]), int(i) + 1) for i in np.flatnonzero(np.isfinite(logged))]
        if "epoch" in rows and n:
            epoch = np.asarray(rows["epoch"], dtype=np.int64)
            before = np.concatenate([[epoch[0] if self._epoch is None else self._epoch], epoch[:-1]])
            for i in np.flatnonzero(epoch > before):
                value = self._of_epochs.get(int(before[i]), np.nan)
                if np.isfinite(value):
                    taken.append((int(i), float(value), int(i)))
            self._epoch = int(epoch[-1])
        return sorted(taken)

    def _add(self, loss: Array) -> None:
        known = loss[np.isfinite(loss)]
        if len(known):
            self._sum = float(np.add.accumulate(np.concatenate([[self._sum], known]))[-1])
            self._count += len(known)
