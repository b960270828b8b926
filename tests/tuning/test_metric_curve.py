"""The curve of a metric over the strength, against textbook formulae and draws; what a run is expected to gain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gradscope.tolerance.posterior import Array
from gradscope.tuning.metric_curve import SHARES, MetricCurve, Point, Squash
from gradscope.tuning.placement import Arm, Scene, knowledge_gradient


def test_a_squash_can_be_undone() -> None:
    squash = Squash(0.9, 0.1)
    y = np.array([0.95, 0.9, 0.89, 0.5, 0.1])
    assert squash.natural(squash(y)) == pytest.approx(y)
    assert squash(y)[-1] > 0.8


def test_the_noise_is_that_of_repeats() -> None:
    random = np.random.default_rng(0)
    values = {(float(x), 0.0): seeded(1.0 - 0.05 * x**2 + 0.02 * random.standard_normal(6)) for x in range(-3, 3)}
    assert MetricCurve(values).noise == pytest.approx(0.02, rel=0.35)


def seeded(values: Array) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def exact(curve: MetricCurve, values: dict[Point, dict[int, float]], share: float, at: Array) -> tuple[Array, Array]:
    """Mean and covariance of a curve by the textbook's formulae, for one share of the seed and the kernel it found."""
    process = next(process for _, other, process in curve._processes if other == share)
    amplitude = process.kernel_.k1.k1 if share else process.kernel_.k1
    matern = process.kernel_.k1.k2 if share else process.kernel_.k2
    runs = np.array([[*point, seed] for point, seen in values.items() for seed in seen])
    metrics = np.array([v for seen in values.values() for v in seen.values()])
    targets = (curve.squash(metrics) - curve._centre) / curve._scale

    def kernel(a: Array, b: Array) -> Array:
        far = math.sqrt(5) * cdist(a[:, :2] / matern.length_scale[:2], b[:, :2] / matern.length_scale[:2])
        return np.asarray(amplitude.constant_value * (1 + far + far**2 / 3) * np.exp(-far))

    same = share * curve._seeds * (runs[:, 2][:, None] == runs[:, 2])
    whole = kernel(runs, runs) + same + np.diag((1 - share) * curve._variance)
    across = kernel(at, runs)
    mean = across @ np.linalg.solve(whole, targets)
    covariance = kernel(at, at) - across @ np.linalg.solve(whole, across.T)
    return curve._centre + curve._scale * mean, curve._scale**2 * covariance


def with_seeds(share: float, number: int = 0) -> dict[Point, dict[int, float]]:
    """Runs on a parabola, .1 at most below its top; so much of a scatter of .05 is the seed's, of three seeds."""
    random = np.random.default_rng(number)
    of_seed = 0.05 * math.sqrt(share) * random.standard_normal(3)
    rest = 0.05 * math.sqrt(1 - share)
    seeds = ((0,), (0, 1), (0,), (1, 2), (0, 2), (0,), (1,), (2,))
    return {
        (x, 0.0): {k: 0.9 - 0.1 * x**2 + of_seed[k] + rest * random.standard_normal() for k in those}
        for x, those in zip(np.linspace(-1, 1, 8).tolist(), seeds, strict=True)
    }


@pytest.mark.parametrize("share", SHARES)
def test_the_curve_is_that_of_the_textbook(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.tuning.metric_curve.SHARES", (share,))
    values = with_seeds(0.8)
    curve = MetricCurve(values)
    at = np.array([[-0.9, 0.0], [0.05, 0.0], [0.7, 1.0]])
    mean, covariance = curve.at(at)
    expected_mean, expected_covariance = exact(curve, values, share, at)
    assert mean == pytest.approx(expected_mean, rel=1e-6)
    assert covariance == pytest.approx(expected_covariance, rel=1e-5, abs=1e-9)


def test_what_seeds_do_everywhere_does_not_bend_the_curve() -> None:
    """Two seeds a fifth apart, one at the strong half and one at the weak: two points with both tell them apart."""
    values = {(x, 0.0): {0: 0.9 - 0.02 * x} for x in (-2.0, -1.5, -1.0, -0.5)}
    values |= {(x, 0.0): {1: 0.7 - 0.02 * x} for x in (0.5, 1.0, 1.5, 2.0)}
    for x in (-0.5, 0.5):
        values[x, 0.0] = {0: 0.9 - 0.02 * x, 1: 0.7 - 0.02 * x}
    mean, covariance = MetricCurve(values).at(np.array([[-2.0, 0.0], [2.0, 0.0]]))
    apart = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert mean[0] - mean[1] == pytest.approx(0.08, abs=0.04)
    assert apart < 0.07


def test_a_run_with_a_known_seed_tells_more_of_where_the_best_lies() -> None:
    curve = MetricCurve(with_seeds(0.95))
    at = np.array([[0.0, 0.0], [0.4, 0.0]])
    known, unknown = (curve.moves(at, np.full(2, seed)) for seed in (0, 99))
    assert known[0, 0] - known[1, 0] > 1.5 * (unknown[0, 0] - unknown[1, 0])
    for moves in (known, unknown):
        assert (np.diag(moves) <= np.sqrt(np.diag(curve.at(at)[1]))).all()  # never more than is not known


def test_the_knowledge_gradient_against_simulation() -> None:
    """The quadrature against drawing the run's metric and looking at the posterior mean after it."""
    at = np.linspace(0, 1, 6)
    covariance = 0.04 * np.exp(-((at[:, None] - at) ** 2) / 0.1)
    mean, noise = 0.8 + 0.1 * at * (1 - at), 0.05
    arms = [Arm(float(10**x)) for x in at]
    scene = Scene(arms, mean, covariance, np.zeros(6), 0.0, noise, Squash(1.0, 1.0))
    gains = knowledge_gradient(scene, covariance / np.sqrt(np.diag(covariance) + noise**2))
    random = np.random.default_rng(1)
    for j in (0, 3):
        seen = mean[j] + math.sqrt(covariance[j, j] + noise**2) * random.standard_normal(20_000)
        after = mean[:, None] + covariance[:, [j]] / (covariance[j, j] + noise**2) * (seen - mean[j])
        assert gains[j] == pytest.approx(float(after.max(0).mean()) - mean.max(), rel=0.1)
