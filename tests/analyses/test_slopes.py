"""Slopes of measured curves, and searches under other priors of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from analyses.tolerance_search import slopes
from analyses.tolerance_search.oracles import Simulated, driven
from analyses.tolerance_search.simulated import HIGH, LOW
from analyses.tolerance_search.slopes import GRID, PRIORS, Prior, Runs, Supposing, likelihood, population
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import LAPSE


def slow(runs: Runs) -> list[float]:
    """The likelihood of each slope, one level, run and slope after another."""
    at = [math.log10(strength) for strength, _ in runs]
    found = []
    for slope in GRID:
        total = 0.0
        for level in np.linspace(min(at) - 0.3, max(at) + 0.3, 400):
            each = 1.0
            for x, (_, failed) in zip(at, runs, strict=True):
                fails = LAPSE / 2 + (1 - LAPSE) * 0.5 * math.erfc(-(x - level) / slope / math.sqrt(2))
                each *= fails if failed else 1 - fails
            total += each
        found.append(total)
    return [x / max(found) for x in found]


def test_the_likelihood_is_that_of_the_slow_twin() -> None:
    runs = [(0.01, False), (0.02, True), (0.015, False), (0.018, True), (0.03, True)]
    assert likelihood(runs) == pytest.approx(slow(runs), rel=1e-9)


@pytest.mark.parametrize("slope", [0.02, 0.1])
def test_a_population_is_found_again(slope: float) -> None:
    random = np.random.default_rng(1)
    drawn = []
    for own in slope * np.exp(0.4 * random.normal(size=60)):
        at = random.uniform(-3 * own, 3 * own, 20)
        runs = [(float(10**x), bool(random.normal() * own < x)) for x in at]
        drawn.append(likelihood(runs))
    median, deviation = population(drawn)
    assert slope / 1.3 < median < 1.3 * slope
    assert deviation <= 0.8


def test_every_measured_curve_has_both_ends() -> None:
    found = slopes.curves()
    assert {name: len(of) for name, of in found.items()} == {
        "prediction, from the start": 126, "prediction, delayed": 140, "failure_detection": 36, "useful_strength": 7,
    }  # fmt: skip
    assert all({failed for _, failed in runs} == {True, False} for of in found.values() for runs in of)


def test_the_shipped_prior_is_the_search_itself() -> None:
    def trials(search: ToleranceSearch) -> list[tuple[float, float]]:
        driven(search, Simulated(-2.0, 0.05, np.random.default_rng(2)))
        return [(trial.strength, trial.failed) for trial in search.told]

    plain = trials(ToleranceSearch(LOW, HIGH, precision=0.2, seed=4))
    assert trials(Supposing(PRIORS["as it is"], 0.2, 4)) == plain
    assert trials(Supposing(replace(PRIORS["as it is"], tilt=2.0), 0.2, 4)) != plain
    assert Prior((0.01, 0.1), median=0.03).log_density(np.array([0.03]))[0] == 0
