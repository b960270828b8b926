"""Estimate the tolerance level from trials: a Bayesian psychometric curve.

P(a run fails at λ) = δ/2 + (1 − δ)·Φ((log₁₀ λ − log₁₀ λ*)/σ), with a small lapse δ for runs that end on the wrong side
by other causes. The posterior over (log₁₀ λ*, σ) is held on a grid, so that the interval is that of the model and no
approximation of it. The model is the usual one of psychophysics (Kontsevich and Tyler 1999, "Bayesian adaptive
estimation of psychometric slope and threshold").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradscope import checks
from gradscope.quantities import Strength
from gradscope.trials.trial import Outcome

Array = NDArray[np.float64]

_erfc = np.frompyfunc(math.erfc, 1, 1)  # some 0.1 µs an entry: not worth a dependency of 110 MB

LAPSE = 0.02
#: Prior of the slope σ, in decades: between these, with a density ∝ σ^(t − 1), t the tilt. Of 309 curves measured, half
#: lie between .010 and .052, one in nine above .1. A log-uniform prior (t = 0) trusts steep curves too much; a larger
#: tilt takes more trials where the curve is steep (docs/decisions/0035, analyses/tolerance_search).
SLOPES = (0.005, 0.3)
TILT = 0.25
CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
#: 95 % of a normal distribution lie within so many standard deviations.
_NORMAL_TAIL = 1.96
#: Decades beyond the searched range in which the level may lie: else a range without the transition in it
#: would get an interval at its edge.
MARGIN = 0.5
#: What was known of early outcomes before any audit of this search: one in a hundred wrong, with the weight of
#: fifty audits (analyses/judge_first_look: 1 of 231 early outcomes was wrong).
ERROR_PRIOR = (0.5, 49.5)
#: The share of a prior that a prediction makes; the rest is flat, for a prediction that is wrong.
SURE = 0.9
#: What no search of a tolerance level tells, and what does.
USEFUL = "how well they learn there it does not say: gradscope tune finds the strength with the best metric"
#: Share of the runs that may fail at the strength that is advised.
RISK = 0.05


@dataclass(frozen=True)
class Predicted:
    """Prediction of the level before any trial.

    Attributes:
        level: log₁₀ λ*.
        spread: its standard deviation, in decades.
    """

    level: float
    spread: float

    @classmethod
    def from_interval(cls, level: float, high: float) -> Predicted:
        """Convert λ* and the upper end of its 95 % interval, which is as wide to both sides on a logarithmic axis."""
        return cls(math.log10(level), math.log10(high / level) / _NORMAL_TAIL)

    def log_density(self, x: Array) -> Array:
        """Compute the log density of log₁₀ λ* on a grid, [M]: a normal curve for `SURE` of it, else flat."""
        z = (x - self.level) / self.spread
        normal = np.exp(-0.5 * z**2) / (self.spread * math.sqrt(2 * math.pi))
        return np.asarray(np.log(SURE * normal + (1 - SURE) / (x[-1] - x[0])))


@dataclass(frozen=True)
class EarlyErrors:
    """Error rates of the judge's early verdicts.

    Attributes:
        alarms: share of the runs that learn which it calls failed.
        misses: share of the runs that fail which it calls healthy.
    """

    alarms: float = ERROR_PRIOR[0] / sum(ERROR_PRIOR)
    misses: float = ERROR_PRIOR[0] / sum(ERROR_PRIOR)

    @classmethod
    def from_audits(cls, audits: Iterable[tuple[bool, bool]]) -> EarlyErrors:
        """Compute posterior means from pairs (told to fail early, failed at the horizon), each side on its own."""
        pairs = list(audits)
        wrong, right = ERROR_PRIOR

        def rate(truth: bool) -> float:
            told = [early for early, failed in pairs if failed == truth]
            return (wrong + sum(early != truth for early in told)) / (wrong + right + len(told))

        return cls(rate(False), rate(True))


@dataclass(frozen=True)
class ToleranceEstimate:
    """λ* with its interval; all None and a sentence why, where the trials do not determine it.

    Attributes:
        determined: whether the trials say where it is.
        reason: what it rests on, or why there is none.
        tolerance: λ*.
        low: lower end of the interval.
        high: upper end of the interval.
        slope: σ, in decades.
        safe: the strength at which a run fails with 5 % probability.
        confidence: of the interval.
    """

    determined: bool
    reason: str
    tolerance: float | None = None
    low: float | None = None
    high: float | None = None
    slope: float | None = None
    safe: float | None = None
    confidence: float = CONFIDENCE

    @property
    def decades(self) -> float:
        """Width of the interval in decades; infinite where there is none."""
        if self.low is None or self.high is None:
            return math.inf
        return math.log10(self.high / self.low)


def normal_cdf(x: Array) -> Array:
    """Compute Φ(x), entry by entry, to the last bit or two."""
    return np.asarray(0.5 * _erfc(-math.sqrt(0.5) * x), dtype=np.float64)


class Posterior:
    """Posterior over (log₁₀ λ*, σ) on a grid, from trials between two strengths.

    Args:
        low: the weakest strength.
        high: the strongest strength.
        spacing: of the levels, in decades.
        margin: decades beyond the range in which the level may lie.
        errors: of early verdicts.
        predicted: the prior of the level, else it is flat.

    Attributes:
        level: log₁₀ λ* of the grid, [M].
        slope: σ of the grid, [S].
    """

    def __init__(
        self,
        low: float,
        high: float,
        *,
        spacing: float = 0.01,
        margin: float = MARGIN,
        errors: EarlyErrors | None = None,
        predicted: Predicted | None = None,
    ) -> None:
        checks.strength_range(low, high)
        self.low, self.high = math.log10(low), math.log10(high)
        points = math.ceil((self.high - self.low + 2 * margin) / spacing) + 1
        self.level = np.linspace(self.low - margin, self.high + margin, points)
        self.slope = np.geomspace(*SLOPES, 15)
        self.errors = errors or EarlyErrors()
        self._log = np.tile(TILT * np.log(self.slope), (points, 1))  # the grid itself is log-uniform
        if predicted is not None:
            self._log += predicted.log_density(self.level)[:, None]

    def probability_told(self, x: float, early: bool = False) -> Array:
        """Compute P(told to fail) at the log₁₀ strength ``x``, for each point of the grid: [M, S]."""
        return self._told(normal_cdf((x - self.level[:, None]) / self.slope), early)

    def _told(self, true: Array, early: bool) -> Array:
        fails = LAPSE / 2 + (1 - LAPSE) * true
        if not early:
            return np.asarray(fails)
        return np.asarray(self.errors.alarms + (1 - self.errors.alarms - self.errors.misses) * fails)

    def update(self, outcome: Outcome) -> None:
        """Take one trial into account."""
        fails = self.probability_told(math.log10(outcome.strength), outcome.early)
        self._log += np.log(outcome.failed * fails + (1 - outcome.failed) * (1 - fails))
        self.__dict__.pop("weights", None)

    def supposing(self, x: float, failed: bool) -> Posterior:
        """Return a copy that has seen this outcome as well."""
        other = object.__new__(type(self))
        other.__dict__ = {name: value for name, value in self.__dict__.items() if name != "weights"}
        other._log = self._log.copy()
        other.update(Outcome(float(10**x), float(failed), early=True))
        return other

    @cached_property
    def weights(self) -> Array:
        """The posterior, [M, S], summing to 1."""
        w = np.exp(self._log - self._log.max())
        return np.asarray(w / w.sum())

    def quantile(self, q: float | Sequence[float]) -> Array:
        """Compute quantiles of log₁₀ λ*."""
        return _quantile(self.level, self.weights.sum(1), q)

    def mean_slope(self) -> float:
        """Compute the posterior mean of σ, in decades."""
        return float((self.weights.sum(0) * self.slope).sum())

    def safe(self) -> float:
        """Compute the log₁₀ strength at which a run fails with 5 % probability, uncertainty of λ* and σ included."""
        below, above = float(self.level[0] - 1), float(self.level[-1])
        for _ in range(24):
            x = (below + above) / 2
            fails = float((self.weights * normal_cdf((x - self.level[:, None]) / self.slope)).sum())
            below, above = (below, x) if fails > RISK else (x, above)
        return below

    def decades(self) -> float:
        """Compute the width of the 95 % interval."""
        low, high = self.quantile([_TAIL, 1 - _TAIL])
        return float(high - low)

    def inside(self) -> tuple[float, float]:
        """Compute the probabilities that the level lies below and above the searched range."""
        by_level = self.weights.sum(1)
        return float(by_level[self.level < self.low].sum()), float(by_level[self.level > self.high].sum())

    # -- where to try -----------------------------------------------------------------------------

    @cached_property
    def _table(self) -> Array:
        """Φ at every difference between two levels, [2M − 1, S]."""
        steps = np.arange(1 - len(self.level), len(self.level)) * (self.level[1] - self.level[0])
        return np.asarray(normal_cdf(steps[:, None] / self.slope))

    def information(self, points: int = 40) -> tuple[Array, Array, Array]:
        """Compute the expected information about λ* of trials within the range.

        Looked at where the posterior has its mass, at ``points`` levels: placement needs no finer ones.

        Returns:
            Candidates [K], the expected information there in nats, and P(told to fail).
        """
        by_level = self.weights.sum(1)
        held = np.flatnonzero(by_level > 1e-4 * by_level.max())
        first, last = int(held[0]), int(held[-1])
        stride = max(1, math.ceil((last - first + 1) / points))
        count = (last - first) // stride + 1
        weights = np.add.reduceat(self.weights[first : last + 1], np.arange(0, count * stride, stride))
        at = first + stride * np.arange(count)
        centre = np.minimum(at + stride // 2, last)
        inside = np.flatnonzero((self.level[centre] >= self.low - 1e-9) & (self.level[centre] <= self.high + 1e-9))
        if not inside.size:  # all mass beyond the range: its edge is what is left to try
            inside = np.array([int(np.argmin(np.abs(self.level[centre] - (self.low + self.high) / 2)))])
        tried = centre[inside]
        fails = self._told(self._table[tried[:, None] - centre + len(self.level) - 1], True)  # [K, M, S]
        # About λ* alone: the slope is a nuisance, so it is averaged out within each level.
        by_level = weights.sum(1)
        joint = np.einsum("kms,ms->km", fails, weights)
        overall = joint.sum(1)
        within = joint / np.maximum(by_level, 1e-300)
        x = np.clip(self.level[tried], self.low, self.high)
        return x, _entropy(overall) - _entropy(within) @ by_level, overall

    # -- what is known ----------------------------------------------------------------------------

    def estimate(self, outcomes: Sequence[Outcome], weaker: str = "try weaker ones") -> ToleranceEstimate:
        """Estimate λ* and its interval, if the trials say where it is. ``weaker``: the advice where it lies below."""
        if (why := self.undetermined(outcomes, weaker)) is not None:
            return ToleranceEstimate(False, why)
        low, middle, high = (float(10**q) for q in self.quantile([_TAIL, 0.5, 1 - _TAIL]))
        failed, learned = (sum(o.failed > 0.5 for o in outcomes), sum(o.failed < 0.5 for o in outcomes))
        reason = f"{failed} of {failed + learned} trials fail{_silent(len(outcomes) - failed - learned)}"
        return ToleranceEstimate(True, reason, middle, low, high, self.mean_slope(), float(10 ** self.safe()))

    def undetermined(self, outcomes: Sequence[Outcome], weaker: str = "try weaker ones") -> str | None:
        """Return why there is no estimate, None if there is one."""
        failed = [o.strength for o in outcomes if o.failed > 0.5]
        learned = [o.strength for o in outcomes if o.failed < 0.5]
        if not outcomes:
            return "there are no finished trials"
        if not failed and not learned:
            return f"no outcome of the {len(outcomes)} trials says anything about the penalty"
        others = _silent(len(outcomes) - len(failed) - len(learned))
        if not failed:
            of = "the one trial learns, at" if len(learned) == 1 else f"all {len(learned)} trials learn, up to"
            told = f"{of} {max(learned):g}{others}"
            return f"{told}: the level lies above; try stronger ones"
        if not learned:
            of = "the one trial fails, at" if len(failed) == 1 else f"all {len(failed)} trials fail, down to"
            return f"{of} {min(failed):g}{others}: the level lies below; {weaker}"
        below, above = self.inside()
        if max(below, above) > CONFIDENCE:
            if below > above:
                return f"the level lies below {10**self.low:.3g}, the end of the range; {weaker}"
            return f"the level lies above {10**self.high:.3g}, the end of the range; try stronger ones"
        return None


def _silent(count: int) -> str:
    return f", {count} more say{'s' if count == 1 else ''} nothing" if count else ""


def _quantile(x: Array, weights: Array, q: float | Sequence[float]) -> Array:
    """Compute quantiles of a distribution on a grid, each weight spread evenly around its point."""
    middle = np.cumsum(weights) - weights / 2
    return np.asarray(np.interp(q, middle, x))


def _entropy(p: Array) -> Array:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-p * np.log(p) - (1 - p) * np.log1p(-p))


def advice(penalty: str, estimate: ToleranceEstimate, delayed: ToleranceEstimate | None) -> str:
    """Tell up to which strength runs learn, from the start and with a delay; not which strength is a good one."""
    parts = []
    if estimate.safe is not None:
        parts.append(f"up to {Strength(estimate.safe, penalty)} from the start")
    if delayed is not None and delayed.safe is not None and delayed.safe > (estimate.safe or 0.0):
        parts.append(f"up to {Strength(delayed.safe, penalty)} with a delay (--schedule delayed:auto)")
    if not parts:
        return f"not determined: {estimate.reason}"
    return f"19 of 20 runs learn something {', '.join(parts)}; {USEFUL}"


def estimate_tolerance(outcomes: Sequence[Outcome]) -> ToleranceEstimate:
    """Estimate λ* from any set of finished runs: the prior reaches a decade beyond them on both sides."""
    positive = [o for o in outcomes if o.strength > 0]
    if not positive:
        return ToleranceEstimate(False, "there is no run with a strength above 0")
    return posterior_of(positive).estimate(positive)


def posterior_of(outcomes: Sequence[Outcome]) -> Posterior:
    """Compute the posterior from runs of any strengths above 0."""
    strengths = [o.strength for o in outcomes]
    posterior = Posterior(min(strengths) / 1.001, max(strengths) * 1.001, spacing=0.005, margin=1.0)
    for outcome in outcomes:
        posterior.update(outcome)
    return posterior
