"""Model a metric over the strength: a Gaussian process over log₁₀ λ, its noise estimated from repeats (scikit-learn).

Only runs that learned are in it: where runs fail the metric drops at once, which is for the tolerance posterior.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradscope.tolerance.posterior import Array

#: A point of the curve: log₁₀ of the strength, and 1 with a delay, 0 from the start.
Point = tuple[float, float]

#: Bounds of the length scale in decades, and of that between runs with and without a delay.
LENGTHS = (0.3, 5.0)
#: The length scale where fewer than `FITTED` points cannot tell it.
LENGTH, FITTED = 0.7, 4
#: Before any repeat, seeds are taken to scatter by this share of the curve's spread, with the weight of one repeat.
PRIOR_NOISE, PRIOR_WEIGHT = 0.1, 1.0
#: The scatter of one point is drawn towards that of all with the weight of so many repeats: it grows near λ*.
SHRUNK = 3.0
#: Shares of a run's scatter that may be its seed's, equally likely before any run.
SHARES = (0.0, 0.5, 0.8, 0.95)
#: A seed that no run has.
NOBODY = -1
#: What is worse than the best by much more than this many deviations of a seed, or this share, need not be told apart.
RESOLVED, RESOLVED_SHARE = 10.0, 0.05


@dataclass(frozen=True)
class Squash:
    """Transform that draws together what lies far below the best, so that a steep fall does not roughen the curve.

    Attributes:
        best: the value from which on nothing is changed.
        within: the most that a value can lie below it afterwards.
    """

    best: float
    within: float

    def __call__(self, y: Array) -> Array:
        """Transform values, entry by entry."""
        below = np.maximum(self.best - y, 0) / self.within
        return np.where(y >= self.best, y, self.best + self.within * np.expm1(-below))

    def natural(self, y: Array) -> Array:
        """Invert the transform, entry by entry."""
        share = np.clip((y - self.best) / self.within, -1 + 1e-9, 0)
        return np.where(y >= self.best, y, self.best + self.within * np.log1p(share))


class MetricCurve:
    """Curve of a metric over the strength.

    A run is the curve, plus what its seed does at every strength alike, plus what nobody explains. How much of a run's
    scatter is its seed's the repeats and the curve's smoothness tell together: the answer is the mean over `SHARES`,
    each weighted by its marginal likelihood.

    Args:
        values: by point, the metric of each run there by seed (larger is better).

    Attributes:
        noise: standard deviation of a single run, where it is near the best.
        squash: what was done to the values.
    """

    def __init__(self, values: Mapping[Point, Mapping[int, float]]) -> None:
        raw = [np.array(list(v.values()), dtype=np.float64) for v in values.values()]
        best = float(max(v.mean() for v in raw))
        self.noise = _scatter(raw)  # of one run, where it is near the best
        within = max(RESOLVED * self.noise, RESOLVED_SHARE * abs(best), 1e-9)
        self.squash = Squash(best, within)
        squashed = [self.squash(v) for v in raw]
        means = np.array([v.mean() for v in squashed])
        self._centre, self._scale = float(np.median(means)), max(float(means.std()), self.noise)
        self._runs = np.array([[*point, seed] for point, seen in values.items() for seed in seen], dtype=np.float64)
        self._targets = (np.concatenate(squashed) - self._centre) / self._scale
        counts = np.array([len(v) for v in squashed])
        squares = np.array([((v - v.mean()) ** 2).sum() for v in squashed])
        variance = (SHRUNK * self.noise**2 + squares) / (SHRUNK + counts - 1)
        self._variance = np.repeat(variance, counts) / self._scale**2
        self._seeds = self.noise**2 / self._scale**2  # of the scatter, what at most is the seed's

    @cached_property
    def _processes(self) -> list[tuple[float, float, Any]]:
        """Weight, share of the seed, and the process of each."""
        shares = SHARES if len(np.unique(self._runs[:, 2])) < len(self._runs) else SHARES[:1]
        fitted = [self._fitted(share) for share in shares]
        likely = np.array([process.log_marginal_likelihood_value_ for process in fitted])
        weights = np.exp(likely - likely.max())
        return list(zip(weights / weights.sum(), shares, fitted, strict=True))

    def _fitted(self, share: float) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

        fitted = len(np.unique(self._runs[:, :2], axis=0)) >= FITTED
        far, near = 1e9, 1e-3  # a length that a column is nothing by, one that tells any two whole numbers apart
        bounds = np.array([LENGTHS, LENGTHS, (far, far)])
        kernel = ConstantKernel(1.0, (0.2, 10.0)) * Matern([LENGTH, LENGTH, far], bounds, nu=2.5)
        if share:
            same = RBF([far, far, near], "fixed")
            kernel += ConstantKernel(share * self._seeds, "fixed") * same
        process = GaussianProcessRegressor(
            kernel, alpha=(1 - share) * self._variance, optimizer="fmin_l_bfgs_b" if fitted else None,
            n_restarts_optimizer=1 if fitted else 0, random_state=0,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scales at their bounds, which are meant to hold them
            return process.fit(self._runs, self._targets)

    def at(self, points: Array) -> tuple[Array, Array]:
        """Compute mean [K] and covariance [K, K] of the curve at these points [K, 2], as squashed."""
        return self._of(points, np.full(len(points), NOBODY))

    def moves(self, points: Array, seeds: Array) -> Array:
        """Compute how far a run moves the curve's mean where it ends one standard deviation above what is expected.

        Args:
            points: of the curve, [K, 2].
            seeds: of a run at each of them, [K].

        Returns:
            The change, [K, K]: a row a point, a column a run.
        """
        count = len(points)
        everybody = np.concatenate([np.full(count, NOBODY), seeds])
        _, covariance = self._of(np.concatenate([points, points]), everybody)
        alone = sum(weight * (1 - share) for weight, share, _ in self._processes) * self.noise**2
        return covariance[:count, count:] / np.sqrt(np.maximum(np.diag(covariance)[count:], 0) + alone)

    def _of(self, points: Array, seeds: Array) -> tuple[Array, Array]:
        """Compute mean and covariance at points with seeds; `NOBODY`: of the curve itself."""
        where, nobody = np.column_stack([points, seeds]), np.flatnonzero(seeds == NOBODY)
        found = []
        for _, share, process in self._processes:
            mean, covariance = process.predict(where, return_cov=True)
            covariance[np.ix_(nobody, nobody)] -= share * self._seeds
            found.append((mean, covariance))
        weights = np.array([weight for weight, _, _ in self._processes])
        means = np.array([mean for mean, _ in found])
        mean = weights @ means
        apart = means - mean
        covariance = np.tensordot(weights, [c for _, c in found], 1) + (apart.T * weights) @ apart
        return self._centre + self._scale * mean, self._scale**2 * covariance

    def natural(self, points: Array) -> tuple[Array, Array, Array]:
        """Compute the mean [K] with the ends of its 95 % interval [K], as the metric is."""
        mean, covariance = self.at(points)
        half = 1.96 * np.sqrt(np.maximum(np.diag(covariance), 0))
        return self.squash.natural(mean), self.squash.natural(mean - half), self.squash.natural(mean + half)


def _scatter(values: list[Array]) -> float:
    """Pool the deviation of a single run over the better half of the points; it has a prior and a least value."""
    means = np.array([v.mean() for v in values])
    spread = float(means.std())
    better = [v for v, mean in zip(values, means, strict=True) if mean >= np.median(means) and len(v) > 1]
    chosen = better or [v for v in values if len(v) > 1]
    squares = sum(float(((v - v.mean()) ** 2).sum()) for v in chosen)
    repeats = sum(len(v) - 1 for v in chosen)
    prior = (PRIOR_NOISE * spread) ** 2
    pooled = (PRIOR_WEIGHT * prior + squares) / (PRIOR_WEIGHT + repeats)
    return float(np.sqrt(max(pooled, (1e-4 * max(spread, abs(float(means.max())))) ** 2, 1e-24)))
