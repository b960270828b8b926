"""Choose where a run tells most about the best point of a curve: arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradscope.tolerance.posterior import Array, Posterior, normal_cdf
from gradscope.tuning.metric_curve import MetricCurve, Point, Squash

DRAWS = 400


@dataclass(frozen=True)
class Arm:
    """Strength with a schedule. Strength 0 is the training without a penalty.

    Attributes:
        strength: λ.
        schedule: as text, None for a penalty from the start.
    """

    strength: float
    schedule: str | None = None

    @property
    def point(self) -> Point:
        """Point of the curve."""
        return math.log10(self.strength), float(self.schedule is not None)


WITHOUT = Arm(0.0)


@dataclass(frozen=True)
class Scene:
    """Curve at K strengths, as larger is better and squashed.

    Attributes:
        arms: the strengths, [K].
        mean: of the metric of runs that learn, [K].
        covariance: of it, [K, K].
        fails: probability that a run fails there, [K].
        floor: what such a run ends with.
        noise: standard deviation of a single run.
        squash: what was done to the values.
    """

    arms: Sequence[Arm]
    mean: Array
    covariance: Array
    fails: Array
    floor: float
    noise: float
    squash: Squash

    @classmethod
    def of(cls, curve: MetricCurve, arms: Sequence[Arm], fails: Array) -> Scene:
        """Evaluate the curve at these strengths."""
        mean, covariance = curve.at(np.array([arm.point for arm in arms]))
        floor = float(min(mean.min(), curve.squash.best - curve.squash.within))
        return cls(arms, mean, covariance, fails, floor, curve.noise, curve.squash)

    @cached_property
    def expected(self) -> Array:
        """What a run there is expected to end with, [K]."""
        return expected(self.mean, self.fails, self.floor)

    def best(self, likely: float) -> int | None:
        """Return the place with the best expectation where runs fail with no more than this probability, if any."""
        allowed = self.fails <= likely
        return int(np.argmax(np.where(allowed, self.expected, -np.inf))) if allowed.any() else None

    def nearly_best(self, best: int, cost: float) -> Array:
        """Compute the probability [K] that a strength costs no more than this share of the metric at the best one."""
        value = float(self.squash.natural(self.mean[best : best + 1])[0])
        least = float(self.squash(np.array([value - cost * abs(value)]))[0])
        spread = np.sqrt(np.maximum(np.diag(self.covariance), 1e-24))
        return np.asarray(normal_cdf((self.mean - least) / spread) * (1 - self.fails))

    def where_best(self, likely: float) -> tuple[float, float] | None:
        """Return the strengths between which the best one lies with 95 % probability."""
        allowed = np.flatnonzero(self.fails <= likely)
        if not len(allowed):
            return None
        at = allowed[draws(self.mean, self.covariance)[:, allowed].argmax(1)]
        low, high = np.quantile(at, [0.025, 0.975], method="nearest")
        return self.arms[int(low)].strength, self.arms[int(high)].strength


def fails_at(posterior: Posterior, strengths: Array) -> Array:
    """Compute the probability [K] that a run at these strengths [K] fails."""
    at = (np.log10(strengths)[:, None, None] - posterior.level[:, None]) / posterior.slope
    return np.asarray((normal_cdf(at) * posterior.weights).sum((1, 2)))


def expected(mean: Array, fails: Array, floor: float) -> Array:
    """Compute the metric [K] that a run is expected to end with: the curve's, or the floor where it fails."""
    return np.asarray(mean - fails * (mean - floor))


def draws(mean: Array, covariance: Array) -> Array:
    """Draw curves [N, K] from a Gaussian process at K points, always the same ones."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(mean + np.random.default_rng(0).standard_normal((DRAWS, len(mean))) @ root.T)


def regret(scene: Scene, allowed: NDArray[np.bool_], chosen: int) -> float:
    """Compute by how much the best allowed place is expected to be better than the chosen one."""
    curves = draws(scene.mean, scene.covariance)
    return float((curves[:, allowed].max(1, initial=-np.inf) - curves[:, chosen]).clip(0).mean())


def knowledge_gradient(scene: Scene) -> Array:
    """Compute how much the best expected metric rises by a run at each place (Frazier, Powell and Dayanik 2009).

    A run that learns shows that weaker strengths with its schedule do; one that fails is taken to teach nothing. The
    expectation over the run's metric is a quadrature of nine points.

    Returns:
        The expected gain, [K].
    """
    mean, fails, floor = scene.mean, scene.fails, scene.floor
    z, weight = np.polynomial.hermite_e.hermegauss(9)
    weight = weight / weight.sum()
    now = float(scene.expected.max())
    gains = np.empty(len(mean))
    for j, arm in enumerate(scene.arms):
        same = np.array([other.schedule == arm.schedule for other in scene.arms])
        later = np.where(same, np.clip((fails - fails[j]) / max(1 - fails[j], 1e-9), 0, 1), fails)
        moves = scene.covariance[:, j] / math.sqrt(max(scene.covariance[j, j], 0) + scene.noise**2)
        outcome = mean[:, None] + moves[:, None] * z
        best = expected(outcome, later[:, None], floor).max(0)
        gains[j] = (1 - fails[j]) * max(0.0, float(best @ weight) - now)
    return gains
