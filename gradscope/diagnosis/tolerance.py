"""The tolerance level from trials: a Bayesian psychometric curve.

P(a run fails at λ) = δ/2 + (1 − δ)·Φ((log₁₀ λ − log₁₀ λ*)/σ), with a small lapse δ for runs that end
on the wrong side by other causes. The posterior over (log₁₀ λ*, σ) is held on a grid, so that the
interval is that of the model and no approximation of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gradscope import checks

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]

LAPSE = 0.02
#: Prior of the slope σ, in decades: between these, with a density ∝ σ^−½. The widths seen lie between .015
#: and .054. A log-uniform prior trusts steep curves too much: its intervals cover 93 % at σ = .1, these 98 %
#: (300 simulated searches as in tests/test_tolerance.py, 2026-11-21).
SLOPES = (0.005, 0.3)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Outcome:
    """One finished trial. ``failed`` may be a probability where the judge is not sure."""

    strength: float
    failed: float


@dataclass(frozen=True)
class ToleranceEstimate:
    """λ* with its interval; all None and a sentence why, where the trials do not determine it."""

    determined: bool
    reason: str
    tolerance: float | None = None
    low: float | None = None
    high: float | None = None
    slope: float | None = None
    confidence: float = CONFIDENCE

    @property
    def decades(self) -> float:
        """The width of the interval in decades; infinite where there is none."""
        if self.low is None or self.high is None:
            return math.inf
        return math.log10(self.high / self.low)


class Posterior:
    """The posterior over (log₁₀ λ*, σ) on a grid, from trials between two strengths."""

    def __init__(self, low: float, high: float, points: int = 401) -> None:
        checks.strength_range(low, high)
        self.low, self.high = math.log10(low), math.log10(high)
        self.level = np.linspace(self.low, self.high, points)
        self.slope = np.geomspace(*SLOPES, 15)
        self._log = np.tile(0.5 * np.log(self.slope), (points, 1))  # the grid itself is log-uniform
        self._fails: Array | None = None

    def likelihood_failed(self, x: Array | float) -> Array:
        """P(fail) at log₁₀ strengths ``x`` [K], on the grid: [K, M, S]."""
        z = (np.reshape(x, (-1, 1, 1)) - self.level[:, None]) / self.slope
        return np.asarray(LAPSE / 2 + (1 - LAPSE) * ndtr(z))

    def update(self, outcome: Outcome) -> None:
        """Take one trial into account."""
        fails = self.likelihood_failed(math.log10(outcome.strength))[0]
        self._log += np.log(outcome.failed * fails + (1 - outcome.failed) * (1 - fails))

    @property
    def weights(self) -> Array:
        """The posterior, [M, S], summing to 1."""
        w = np.exp(self._log - self._log.max())
        return np.asarray(w / w.sum())

    def quantile(self, q: float | Sequence[float]) -> Array:
        """Quantiles of log₁₀ λ*."""
        cumulative = np.cumsum(self.weights.sum(1))
        return np.asarray(np.interp(q, cumulative, self.level))

    def mean_slope(self) -> float:
        return float((self.weights.sum(0) * self.slope).sum())

    def information(self) -> tuple[Array, Array]:
        """Expected information about λ* (in nats) from a trial at each level of the grid, and P(fail) there."""
        if self._fails is None:
            self._fails = self.likelihood_failed(self.level)
        weights = self.weights
        by_level = weights.sum(1)
        # About λ* alone: the slope is a nuisance, so it is averaged out within each level.
        joint = np.einsum("kms,ms->km", self._fails, weights)
        overall = joint.sum(1)
        within = joint / np.maximum(by_level, 1e-300)
        return _entropy(overall) - _entropy(within) @ by_level, overall

    def estimate(self, outcomes: Sequence[Outcome]) -> ToleranceEstimate:
        """λ* and its interval, if the trials say where it is."""
        failed = [o.strength for o in outcomes if o.failed >= 0.5]
        learned = [o.strength for o in outcomes if o.failed < 0.5]
        if not outcomes:
            return ToleranceEstimate(False, "there are no finished trials")
        if not failed:
            return ToleranceEstimate(
                False,
                f"all {len(learned)} trials learn, up to {max(learned):g}: the level lies above; try stronger ones",
            )
        if not learned:
            return ToleranceEstimate(
                False,
                f"all {len(failed)} trials fail, down to {min(failed):g}: the level lies below; try weaker ones",
            )
        tail = (1 - CONFIDENCE) / 2
        low, middle, high = (float(10**q) for q in self.quantile([tail, 0.5, 1 - tail]))
        return ToleranceEstimate(
            True, f"{len(failed)} of {len(outcomes)} trials fail", middle, low, high, self.mean_slope()
        )


def _entropy(p: Array) -> Array:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-p * np.log(p) - (1 - p) * np.log1p(-p))


def estimate_tolerance(outcomes: Sequence[Outcome]) -> ToleranceEstimate:
    """λ* from any set of finished runs: the prior reaches a decade beyond them on both sides."""
    positive = [o for o in outcomes if o.strength > 0]
    if not positive:
        return ToleranceEstimate(False, "there is no run with a strength above 0")
    strengths = [o.strength for o in positive]
    posterior = Posterior(min(strengths) / 10, max(strengths) * 10, points=1201)
    for outcome in positive:
        posterior.update(outcome)
    return posterior.estimate(positive)


def recorded_strength(dataset: xr.Dataset) -> float:
    """The full strength of a recorded run: the largest that acted on a penalised parameter."""
    groups = np.unique(dataset["group"].values[dataset["penalised"].values.astype(bool)])
    if not len(groups) or "strength" not in dataset or not dataset.sizes["step"]:
        return 0.0
    strongest = np.nanmax(dataset["strength"].values[:, groups])
    return float(f"{strongest:.6g}")  # as it was given: the file holds it in float32
