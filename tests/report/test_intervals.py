"""Intervals of figures: how often they hold the truth, and that none lies beyond what is possible."""

from __future__ import annotations

import numpy as np
import pytest

from gradscope.report.intervals import mean_interval

#: Accuracies of runs that all learn: their mean, and how far apart seeds are.
RUNS = [(0.9, 0.01), (0.97, 0.02), (0.6, 0.1), (0.99, 0.005), (0.12, 0.02)]


def drawn(mean: float, spread: float, count: int, times: int) -> np.ndarray:
    """Accuracies [times, count] of a beta distribution."""
    entries = mean * (1 - mean) / spread**2 - 1
    return np.random.default_rng(0).beta(mean * entries, (1 - mean) * entries, (times, count))


@pytest.mark.parametrize(("mean", "spread"), RUNS)
def test_the_interval_of_a_mean_holds_it_as_often_as_it_says(mean: float, spread: float) -> None:
    """Of 3 to 10 accuracies. 2,000 draws tell a share of .95 to ± .01."""
    for count in range(3, 11):
        found = np.array([mean_interval(values) for values in drawn(mean, spread, count, 2000)])
        assert (found[:, 1] >= 0).all()
        assert (found[:, 2] <= 1).all()
        held = ((found[:, 1] <= mean) & (mean <= found[:, 2])).mean()
        assert 0.925 <= held <= 0.965, (count, held)


def test_what_few_or_equal_runs_tell() -> None:
    for values in ([0.5], [0.5, 0.6]):
        mean, low, high = mean_interval(np.array(values))
        assert mean == pytest.approx(np.mean(values))
        assert np.isnan(low)
        assert np.isnan(high)
    assert mean_interval(np.ones(3)) == (1.0, pytest.approx(0.999), 1.0)
    assert mean_interval(np.full(3, 0.5)) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = mean_interval(np.array([-1.0, 0.0, 1.0]))  # no shares
    assert (mean, low) == (0.0, pytest.approx(-high))
    assert high == pytest.approx(4.302653 / np.sqrt(3))


def test_an_interval_goes_with_its_unit_where_values_are_small() -> None:
    """A loss of 2e-5 lies within [0, 1] as well; its interval is not that of a share of a thousandth."""
    small = np.array([1.0, 2.0, 3.0])
    for scale in (1e-3, 1e-5, 1e-9):
        mean, low, high = mean_interval(small * scale)
        assert 0 < low < 0.5 * mean
        assert 2 * mean < high < 5 * mean
        mirrored = mean_interval(1 - small * scale)
        assert mirrored == pytest.approx((1 - mean, 1 - high, 1 - low))
