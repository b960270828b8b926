"""Compute the few series of the whole network that a judge looks at, from the rows of a record.

Sums run over the penalised parameters (over all of them where none is penalised): what the penalty does not touch
cannot be crushed by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.run_info import RunInfo

Array = NDArray[np.float64]
Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Series:
    """One number a row; NaN where the record does not hold what it takes.

    Attributes:
        step: optimizer step, [N].
        loss: of the data, [N].
        gradient: mean |∂L/∂w|, [N].
        penalty: mean |λ∂Ω/∂w|, [N].
        weight: mean |w|, [N].
        weight_square: Σ‖w‖², [N].
        pull: −Σ⟨w, ∂L/∂w⟩, what the loss does to the size of the weights, [N].
        push: Σ⟨w, λ∂Ω/∂w⟩, what the penalty does to it, [N].
        rate: share of a weight that the penalty alone takes away in one step (the inverse of the e-folding time, in
            steps), [N].
        nonfinite: gradient entries that are not finite, [N].
        strength: the largest that acts, [N].
        signal: part of the last module's output that depends on the input (`activation_std`), NaN between samples, [N].
        output: mean size of that output, NaN between samples, [N].
    """

    step: Array
    loss: Array
    gradient: Array
    penalty: Array
    weight: Array
    weight_square: Array
    pull: Array
    push: Array
    rate: Array
    nonfinite: Array
    strength: Array
    signal: Array
    output: Array

    def __len__(self) -> int:
        return len(self.step)

    @property
    def proportion(self) -> Array:
        """Σ|∂L/∂w| over the sum of both gradients, [N]; NaN where there is neither."""
        both = self.gradient + self.penalty
        return np.divide(self.gradient, both, out=np.full_like(both, np.nan), where=both > 0)


class GrowingSeries:
    """Series that grows by blocks; its storage doubles, so that a long run costs no more a row."""

    def __init__(self) -> None:
        self._table = np.empty((len(fields(Series)), 256))
        self._length = 0

    def extend(self, more: Series) -> None:
        """Add the rows of a block."""
        end = self._length + len(more)
        if end > self._table.shape[1]:
            table = np.empty((self._table.shape[0], max(end, 2 * self._table.shape[1])))
            table[:, : self._length] = self._table[:, : self._length]
            self._table = table
        for i, f in enumerate(fields(Series)):
            self._table[i, self._length : end] = getattr(more, f.name)
        self._length = end

    def view(self) -> Series:
        """Return all rows so far, without a copy."""
        return Series(*(column[: self._length] for column in self._table))


def network_series(rows: Rows, info: RunInfo) -> Series:
    """Compute the series of the whole network from a block of rows ([N] and [N, P] arrays by variable name)."""
    step = np.asarray(rows["step"], dtype=np.float64)
    n = len(step)
    watched = info.watched
    weights = info.numel[watched]
    nothing = np.full(n, np.nan)

    def table(name: str) -> Array | None:
        return np.asarray(rows[name], dtype=np.float64)[:, watched] if name in rows else None

    def mean(values: Array | None) -> Array:
        # A parameter that got no gradient at all (unused, frozen) is no evidence of either kind.
        if values is None:
            return nothing
        seen = ~np.isnan(values)
        count = (seen * weights).sum(1)
        return np.where(count > 0, (np.where(seen, values, 0) * weights).sum(1) / np.maximum(count, 1), np.nan)

    g_abs = table("loss_gradient_mean_abs")

    def moved(name: str) -> Array | None:
        # So is its weight, and a decay that optimizers do not apply without a gradient.
        values = table(name)
        if values is None or g_abs is None:
            return values
        return np.where(np.isnan(g_abs) & ~np.isnan(g_abs).all(1, keepdims=True), np.nan, values)

    r_abs, w_abs = moved("penalty_gradient_mean_abs"), moved("weight_mean_abs")
    w_norm, dot = moved("weight_norm"), table("weight_gradient_dot")
    square = w_norm**2 if w_norm is not None else None
    push = _push(info.penalty, r_abs, w_abs, square, weights)
    nonfinite = table("nonfinite_count")
    return Series(
        step=step,
        loss=np.asarray(rows["loss"], dtype=np.float64) if "loss" in rows else nothing,
        gradient=mean(g_abs),
        penalty=mean(r_abs),
        weight=mean(w_abs),
        weight_square=_total(square, nothing),
        pull=-np.nansum(dot, axis=1) if dot is not None else nothing,
        push=_total(push, nothing),
        rate=_rate(rows, info, g_abs, r_abs, w_abs, weights),
        nonfinite=nonfinite.sum(1) if nonfinite is not None else np.zeros(n),
        strength=_strength(rows, info, r_abs),
        signal=_of_last_module(rows, "activation_std"),
        output=_of_last_module(rows, "activation_mean_abs"),
    )


def _total(values: Array | None, nothing: Array) -> Array:
    """Sum over the parameters that took part; NaN where none did."""
    if values is None:
        return nothing
    seen = ~np.isnan(values)
    return np.where(seen.any(1), np.where(seen, values, 0).sum(1), np.nan)


def _strength(rows: Rows, info: RunInfo, r_abs: Array | None) -> Array:
    if "strength" in rows:
        groups = np.unique(info.group[info.watched])
        return np.asarray(np.asarray(rows["strength"], dtype=np.float64)[:, groups].max(1))
    if r_abs is None:
        return np.full(len(rows["step"]), np.nan)
    return np.asarray(np.where(np.isnan(r_abs), 0, r_abs).max(1))


def _of_last_module(rows: Rows, name: str) -> Array:
    """Return the last column that holds a number in this block: of the module that ran last."""
    if name in rows:
        values = np.asarray(rows[name], dtype=np.float64)
        columns = np.flatnonzero(np.isfinite(values).any(0))
        if len(columns):
            return np.asarray(values[:, columns[-1]])
    return np.full(len(rows["step"]), np.nan)


def _push(penalty: str, r_abs: Array | None, w_abs: Array | None, square: Array | None, numel: Array) -> Array | None:
    """Compute ⟨w, r⟩ a parameter, [N, P], from the sizes that are recorded. Exact for L2 and L1."""
    if r_abs is None or w_abs is None:
        return None
    if penalty == "l2":
        if square is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(w_abs > 0, r_abs / w_abs, 0.0) * square  # r = 2λw
    # L1: r = λ·sign(w), so ⟨w, r⟩ = λ‖w‖₁. For other penalties the same product is an estimate.
    return r_abs * w_abs * numel


def layer_push(rows: Rows, info: RunInfo) -> Array | None:
    """Compute ⟨w, λ∂Ω/∂w⟩ of every parameter, [N, P]; None where the record does not hold what it takes."""

    def table(name: str) -> Array | None:
        return np.asarray(rows[name], dtype=np.float64) if name in rows else None

    norm = table("weight_norm")
    square = norm**2 if norm is not None else None
    return _push(info.penalty, table("penalty_gradient_mean_abs"), table("weight_mean_abs"), square, info.numel)


def _rate(
    rows: Rows, info: RunInfo, g_abs: Array | None, r_abs: Array | None, w_abs: Array | None, numel: Array
) -> Array:
    """Compute the share of a weight that the penalty alone takes away a step, averaged over the weights.

    SGD: lr·|r|/(|w|·(1 − momentum)); what acts beside the optimizer's step acts once, without momentum. An adaptive
    optimizer makes steps of about lr whatever the gradient's size; of these, coupled decay has the share |r|/(|g| +
    |r|).

    Returns:
        One share a row, [N].
    """
    if r_abs is None or w_abs is None or "learning_rate" not in rows:
        return np.full(len(rows["step"]), np.nan)
    group = info.group[info.watched]
    momentum, beside, adaptive = (np.asarray(values)[group] for values in (info.momentum, info.beside, info.adaptive))
    gain = np.where(beside, 1.0, 1.0 / (1.0 - np.minimum(momentum, 0.9999)))
    lr = np.asarray(rows["learning_rate"], dtype=np.float64)[:, group]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = gain * r_abs
        if g_abs is not None:
            step = np.where(adaptive & ~beside, np.where(r_abs > 0, r_abs / (g_abs + r_abs), 0.0), step)
        share = np.where(w_abs > 0, step / w_abs, 0.0)
    took_part = ~np.isnan(w_abs)  # a parameter without a gradient counts for nothing
    each = np.where(took_part, lr * share * numel, 0.0)
    return np.asarray(each.sum(1) / np.maximum((took_part * numel).sum(1), 1.0))
