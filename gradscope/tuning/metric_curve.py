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

    Args:
        values: by point, the metric of each run there (larger is better).

    Attributes:
        noise: standard deviation of a single run, where it is near the best.
        squash: what was done to the values.
    """

    def __init__(self, values: Mapping[Point, list[float]]) -> None:
        raw = [np.asarray(v, dtype=np.float64) for v in values.values()]
        best = float(max(v.mean() for v in raw))
        self.noise = _scatter(raw)  # of one run, where it is near the best
        within = max(RESOLVED * self.noise, RESOLVED_SHARE * abs(best), 1e-9)
        self.squash = Squash(best, within)
        self._points = np.array(list(values), dtype=np.float64)
        self._values = [self.squash(v) for v in raw]
        means = np.array([v.mean() for v in self._values])
        self._centre, self._scale = float(np.median(means)), max(float(means.std()), self.noise)
        counts = np.array([len(v) for v in self._values], dtype=np.float64)
        squares = np.array([((v - v.mean()) ** 2).sum() for v in self._values])
        variance = (SHRUNK * self.noise**2 + squares) / (SHRUNK + counts - 1)
        self._alpha = variance / counts / self._scale**2
        self._targets = (means - self._centre) / self._scale

    @cached_property
    def _process(self) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern

        fitted = len(self._targets) >= FITTED
        start = np.full(2, LENGTH)
        kernel = ConstantKernel(1.0, (0.2, 10.0)) * Matern(start, LENGTHS, nu=2.5)
        process = GaussianProcessRegressor(
            kernel, alpha=self._alpha, optimizer="fmin_l_bfgs_b" if fitted else None,
            n_restarts_optimizer=1 if fitted else 0, random_state=0,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scales at their bounds, which are meant to hold them
            return process.fit(self._points, self._targets)

    def at(self, points: Array) -> tuple[Array, Array]:
        """Compute mean [K] and covariance [K, K] at these points [K, 2], as squashed."""
        mean, covariance = self._process.predict(points, return_cov=True)
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
