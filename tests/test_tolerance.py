"""The posterior of the tolerance level and the placement of trials, without any training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr

from gradscope import InputError
from gradscope.diagnosis.tolerance import LAPSE, Outcome, Posterior, estimate_tolerance
from gradscope.search.asker import ToleranceSearch


def simulate(level: float, slope: float, seed: int, **options: float) -> ToleranceSearch:
    """A search against a made-up training whose outcomes follow the curve."""
    random = np.random.default_rng(seed)
    search = ToleranceSearch(1e-4, 1.0, seed=seed, **options)  # type: ignore[arg-type]
    while not search.done:
        plan = search.ask()
        fails = ndtr((math.log10(plan.strength) - level) / slope)
        search.tell(plan.strength, float(random.random() < fails), 100)
    return search


def test_posterior_equals_a_sum_over_the_grid() -> None:
    posterior = Posterior(1e-3, 1.0)
    outcomes = [Outcome(0.01, 0.0), Outcome(0.1, 1.0), Outcome(0.03, 0.7)]
    weights = np.ones(len(posterior.level))[:, None] * np.sqrt(posterior.slope)
    for o in outcomes:
        posterior.update(o)
        for i, level in enumerate(posterior.level):
            for j, slope in enumerate(posterior.slope):
                p = LAPSE / 2 + (1 - LAPSE) * ndtr((math.log10(o.strength) - level) / slope)
                weights[i, j] *= o.failed * p + (1 - o.failed) * (1 - p)
    np.testing.assert_allclose(posterior.weights, weights / weights.sum(), rtol=1e-8)


def test_estimate_brackets_and_says_when_it_cannot() -> None:
    found = estimate_tolerance([Outcome(s, float(s > 0.02)) for s in (0.001, 0.01, 0.015, 0.03, 0.04, 0.1)])
    assert found.determined
    assert found.low is not None and found.tolerance is not None and found.high is not None
    assert found.low < found.tolerance < found.high
    assert 0.01 < found.tolerance < 0.04
    for outcomes, side in (([Outcome(0.1, 0.0)], "lies above"), ([Outcome(0.1, 1.0)], "lies below")):
        nothing = estimate_tolerance(outcomes)
        assert not nothing.determined
        assert nothing.tolerance is None
        assert side in nothing.reason
    assert "no run" in estimate_tolerance([Outcome(0.0, 0.0)]).reason


def coverage(slope: float, searches: int) -> float:
    """The share of simulated searches whose interval holds the true level."""
    covered = []
    for seed in range(searches):
        level = -2 + 0.5 * math.sin(seed)
        found = simulate(level, slope, seed, max_trials=30).estimate()
        assert found.low is not None and found.high is not None
        covered.append(math.log10(found.low) <= level <= math.log10(found.high))
    return float(np.mean(covered))


@pytest.mark.parametrize("slope", [0.01, 0.03, 0.1])
def test_intervals_cover_the_truth(slope: float) -> None:
    assert coverage(slope, 30) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.01, 0.02, 0.05, 0.1])
def test_intervals_cover_the_truth_as_often_as_they_say(slope: float) -> None:
    assert coverage(slope, 500) >= 0.93


def test_trials_are_placed_where_they_tell_most() -> None:
    search = simulate(-1.7, 0.02, 1, max_trials=25)
    assert search.estimate().decades < 0.15
    late = [abs(math.log10(o.strength) + 1.7) for o in search.outcomes[8:]]
    assert np.median(late) < 0.1


def test_a_batch_spreads_and_seeds_are_new() -> None:
    search = ToleranceSearch(1e-4, 1.0)
    plans = [search.ask(running) for running in range(8)]
    assert len({plan.strength for plan in plans}) > 4
    assert [plan.seed for plan in plans] == list(range(8))
    assert all(1e-4 <= plan.strength <= 1.0 for plan in plans)


def test_a_search_replays_its_ledger() -> None:
    search = simulate(-2, 0.05, 3, max_trials=10)
    again = ToleranceSearch(1e-4, 1.0, seed=3, max_trials=10)
    for number, o in enumerate(search.outcomes):
        again.replay(number, o.strength, o.failed, 100)
    assert again.done
    assert again.estimate() == search.estimate()


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (1.0, 0.1, "expected low < high"),
        (-1.0, 1.0, "low is -1"),
        (0.0, 1.0, "low is 0"),
        (0.1, math.inf, "high is inf"),
    ],
)
def test_a_range_upside_down_or_negative(low: float, high: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ToleranceSearch(low, high)
    with pytest.raises(InputError, match="precision"):
        ToleranceSearch(0.1, 1, precision=0)
    with pytest.raises(InputError, match="max_trials"):
        ToleranceSearch(0.1, 1, max_trials=0)
