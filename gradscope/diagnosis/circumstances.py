"""Collect what a run began with and what was done to its gradients: facts that speak for other causes than the penalty.

Bounded memory: sums over the first window of rows, counts over all of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.loss_terms import LossTerm, LossTerms
from gradscope.diagnosis.series import Array, Rows
from gradscope.run_info import RunInfo

#: A share of zeros from which a module counts as dead.
DEAD = 0.995
#: The share of its size that an output has to depend on the input with at the start, to lose it.
EVER = 0.01
#: A share of its largest norm below which a matrix has shrunk, where nothing is known that shrinks it.
SHRUNK = 0.3
#: Share of the weights by which a step moves them, at the start, that is large.
LARGE = 0.1
#: A share of its largest below which a learning rate has gone.
GONE = 1e-3
#: A share of its largest signal below which a module's output has lost the input.
FADED = 0.1


@dataclass(frozen=True)
class Facts:
    """What is known so far; NaN or None where it was not recorded.

    Attributes:
        clip: geometric mean of the clip coefficient.
        clipped: share of the rows that were clipped.
        moves: share of the weights by which an unclipped step of the loss moved them in the first window.
        moves_clipped: the same as it was, clipped.
        moves_first: the same of the first row that tells.
        signal: of each module at the start, the share of its output that depends on the input, [M].
        size: mean size of each module's output before the first step, [M].
        flow: gradient norms of the first and the last matrix at the start.
        dead: modules that put out zeros alone, and since which step.
        stopped: trained matrices whose loss gradient is exactly 0, and since which step, where they are most of them.
        faded: modules before the last whose output hardly depends on the input any more, with the share of what once
            did.
        silent: parameters that never got a gradient.
        rate_gone: share of the rows since every learning rate fell below a thousandth of its largest, for good.
        shrunk: matrices that no known penalty acts on and that lost most of their norm, with the share that is left.
        rate: the largest learning rate.
        zeros: share of the trained matrices whose entries all begin at 0.
        terms: of the loss that were read off the gradients, as the last look that saw any did.
    """

    clip: float
    clipped: float
    moves: float
    moves_clipped: float
    moves_first: float
    signal: Array | None
    size: Array | None
    flow: tuple[float, float] | None
    dead: dict[str, int]
    stopped: dict[str, int]
    faded: dict[str, float]
    silent: list[str]
    rate_gone: float
    shrunk: dict[str, float]
    rate: float
    zeros: float
    terms: tuple[LossTerm, ...] = ()

    @property
    def off(self) -> dict[str, int]:
        """What passes no gradient on any more, as far as activations or else gradients tell, and since when."""
        return self.dead or self.stopped

    @property
    def large_inputs(self) -> bool:
        """Whether the first module puts out large numbers at the start, as from inputs that were not scaled."""
        return self.size is not None and len(self.size) > 0 and bool(self.size[0] > 30)


class Circumstances:
    """Collector of `Facts` of one run.

    Args:
        info: of the run.
        window: rows that count as its start.
    """

    def __init__(self, info: RunInfo, window: int) -> None:
        self._info, self._window = info, window
        self._count = 0
        self._early: dict[str, list[Array]] = {}
        self._clip, self._clipped, self._clips = 0.0, 0, 0
        self._moves: list[Array] = []
        self._dead: NDArray[np.int64] | None = None  # the step since which, -1 for alive, [M]
        self._stopped: NDArray[np.int64] | None = None  # the step since which a gradient is exactly 0, -1 for not, [P]
        self._highest: Array | None = None  # activation_std of each module, [M]
        self._last: Array | None = None
        self._norms: tuple[Array, Array] | None = None  # the largest norm of each parameter, and the last, [P] each
        self._zeros = 0.0
        self._weight: float | None = None  # Σ|w| of what is trained, at the first row
        self._rate: Array | None = None  # the largest learning rate of each group, [G]
        self._rate_rows = 0  # since all of them have gone
        self._got: NDArray[np.bool_] | None = None
        self._reader = LossTerms(info)
        self._terms: tuple[LossTerm, ...] = ()

    def see(self, rows: Rows) -> None:
        """Take a block of rows, in order."""
        n = len(rows["step"])
        first = max(0, min(n, self._window - self._count))
        self._count += n
        for name in ("activation_std", "activation_mean_abs", "loss_gradient_norm"):
            if name in rows and first:
                self._early.setdefault(name, []).append(np.asarray(rows[name][:first], dtype=np.float64))
        clip = (
            np.asarray(rows["clip_coefficient"], dtype=np.float64) if "clip_coefficient" in rows else np.full(n, np.nan)
        )
        known = np.isfinite(clip) & (clip > 0)
        self._clip += float(np.log(np.minimum(clip[known], 1)).sum())
        self._clipped += int((clip[known] < 0.999).sum())
        self._clips += int(known.sum())
        if first:
            self._moves.append(np.stack([self._moved(rows, first), np.where(known, clip, 1.0)[:first]]))
        self._see_dead(rows)
        self._see_signal(rows)
        self._see_rate(rows)
        self._see_norms(rows)
        for _, terms in self._reader.see(rows):
            self._terms = tuple(terms) or self._terms
        if "loss_gradient_mean_abs" in rows:
            gradient = np.asarray(rows["loss_gradient_mean_abs"])
            self._see_stopped(np.asarray(rows["step"]), gradient)
            got = np.isfinite(gradient).any(0)
            self._got = got if self._got is None else self._got | got

    def _moved(self, rows: Rows, n: int) -> Array:
        """Compute mean |step of the loss| / mean |w|: lr·|g|/(1 − momentum) for SGD, about lr if adaptive."""
        if not {"learning_rate", "loss_gradient_mean_abs", "weight_mean_abs"} <= rows.keys():
            return np.full(n, np.nan)
        info, owned = self._info, self._info.group >= 0
        group = info.group[owned]
        momentum, adaptive = (np.asarray(values)[group] for values in (info.momentum, info.adaptive))
        lr = np.asarray(rows["learning_rate"][:n], dtype=np.float64)[:, group]
        g, w = (
            np.asarray(rows[k][:n], dtype=np.float64)[:, owned] for k in ("loss_gradient_mean_abs", "weight_mean_abs")
        )
        size = np.where(adaptive, np.where(g > 0, 1.0, 0.0), g / (1 - np.minimum(momentum, 0.9999)))
        numel = info.numel[owned] * np.isfinite(g)
        if self._weight is None:  # what a penalty has left of them later is no measure
            self._weight = float((np.nan_to_num(w[0]) * numel[0]).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((np.nan_to_num(lr * size) * numel).sum(1) / np.float64(self._weight))

    def _see_dead(self, rows: Rows) -> None:
        if "activation_zero_fraction" not in rows:
            return
        zero = np.asarray(rows["activation_zero_fraction"], dtype=np.float64)
        step = np.asarray(rows["step"])[np.isfinite(zero).any(1)]
        zero = zero[np.isfinite(zero).any(1)]
        if self._dead is None:
            self._dead = np.full(zero.shape[1], -1, dtype=np.int64)
        for at, dead in zip(step, zero >= DEAD, strict=True):
            self._dead = np.where(dead, np.where(self._dead < 0, at, self._dead), -1)

    def _see_stopped(self, step: NDArray[Any], gradient: NDArray[Any]) -> None:
        if self._stopped is None:
            self._stopped = np.full(gradient.shape[1], -1, dtype=np.int64)
        if not len(step):
            return
        place = np.arange(len(step))[:, None]
        last = np.where(gradient > 0, place, -1).max(0)  # that passed something; -1: none of these
        after = (gradient == 0) & (place > last)
        began = np.where(after.any(0), step[after.argmax(0)], -1)
        self._stopped = np.where((last < 0) & (self._stopped >= 0), self._stopped, began)

    def _most_stopped(self) -> dict[str, int]:
        info = self._info
        if self._stopped is None or len(info.matrices) != len(info.parameters):
            return {}
        trained = info.matrices & ~info.frozen
        at = np.flatnonzero(trained & (self._stopped >= 0))
        most = len(at) > 0.5 * trained.sum()
        return {info.parameters[i]: int(self._stopped[i]) for i in at} if most else {}

    def _see_signal(self, rows: Rows) -> None:
        if "activation_std" not in rows:
            return
        std = np.asarray(rows["activation_std"], dtype=np.float64)
        std = np.nan_to_num(std[np.isfinite(std).any(1)])
        if len(std):
            before = std[0] if self._highest is None else self._highest
            self._highest, self._last = np.maximum(before, std.max(0)), std[-8:].mean(0)

    def _see_rate(self, rows: Rows) -> None:
        if "learning_rate" not in rows:
            return
        rate = np.nan_to_num(np.asarray(rows["learning_rate"], dtype=np.float64))
        before = np.zeros((1, rate.shape[1])) if self._rate is None else self._rate[None]
        peak = np.maximum.accumulate(np.concatenate([before, rate]))[1:]
        self._rate = peak[-1]
        there = np.flatnonzero((rate > GONE * peak).any(1))
        self._rate_rows = len(rate) - 1 - int(there[-1]) if len(there) else self._rate_rows + len(rate)

    def _see_norms(self, rows: Rows) -> None:
        if "weight_norm" not in rows or not len(rows["weight_norm"]):
            return
        norm = np.asarray(rows["weight_norm"], dtype=np.float64)
        info = self._info
        if self._norms is None and len(info.matrices) == len(info.parameters):
            trained = info.matrices & ~info.frozen
            self._zeros = float((norm[0][trained] == 0).mean()) if trained.any() else 0.0
        largest = norm.max(0) if self._norms is None else np.fmax(self._norms[0], norm.max(0))
        self._norms = largest, norm[-1]

    def _shrunk(self) -> dict[str, float]:
        info = self._info
        if self._norms is None or len(info.matrices) != len(info.parameters):
            return {}
        largest, last = self._norms
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(largest > 0, last / largest, np.nan)
        free = info.matrices & ~info.frozen & ~info.penalised & (left < SHRUNK)
        return {info.parameters[i]: float(left[i]) for i in np.flatnonzero(free)}

    def facts(self) -> Facts:
        """Return what is known now."""
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
            std, size, norm = (
                np.nanmean(np.concatenate(self._early[name]), axis=0) if name in self._early else None
                for name in ("activation_std", "activation_mean_abs", "loss_gradient_norm")
            )
            share = std / size if std is not None and size is not None else None
            moves, clip = np.concatenate(self._moves, axis=1) if self._moves else np.full((2, 1), np.nan)
            free, as_it_was = float(np.nanmean(moves)), float(np.nanmean(moves * np.minimum(clip, 1)))
        info = self._info
        flow = None
        if norm is not None and len(info.matrices) == len(norm):
            at = np.flatnonzero(info.matrices & np.isfinite(norm))
            flow = (float(norm[at[0]]), float(norm[at[-1]])) if len(at) > 1 else None
        dead = (
            {}
            if self._dead is None
            else {name: int(since) for name, since in zip(info.modules, self._dead, strict=False) if since >= 0}
        )
        silent = (
            []
            if self._got is None
            else [
                name
                for name, got, group in zip(info.parameters, self._got, info.group, strict=True)
                if not got and group >= 0
            ]
        )
        return Facts(
            clip=float(np.exp(self._clip / self._clips)) if self._clips else np.nan,
            clipped=self._clipped / self._clips if self._clips else np.nan,
            moves=free,
            moves_clipped=as_it_was,
            moves_first=next((float(m) for m in (moves * np.minimum(clip, 1)) if 0 < m < np.inf), np.nan),
            signal=share,
            size=self._first_size(),
            flow=flow,
            dead=dead,
            stopped=self._most_stopped(),
            faded=self._faded(share),
            silent=silent,
            shrunk=self._shrunk(),
            terms=self._terms,
            rate=float(self._rate.max()) if self._rate is not None and self._rate.size else np.nan,
            zeros=self._zeros,
            rate_gone=self._rate_rows / self._count if self._rate is not None and self._rate.any() else np.nan,
        )

    def _first_size(self) -> Array | None:
        """Return sizes of the first rows with activations: later ones are what the steps made of it."""
        sampled = [part[np.isfinite(part).any(1)] for part in self._early.get("activation_mean_abs", ())]
        return next((part[0] for part in sampled if len(part)), None)

    def _faded(self, share: Array | None) -> dict[str, float]:
        if self._highest is None or self._last is None:
            return {}
        ever = np.ones(len(self._last), dtype=bool) if share is None else ~(share < EVER)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(self._highest > 0, self._last / self._highest, np.nan)
        inner = list(zip(self._info.modules, left, ever, strict=False))[:-1]
        norms = self._info.normalisations  # what they put out is as large as their gain
        return {name: float(part) for name, part, once in inner if once and part < FADED and name not in norms}
