"""The study of the useful strength: its curves, and what it counts."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.useful_strength import simulated
from analyses.useful_strength.run import cells
from analyses.useful_strength.training import HIGH, LOW
from gradscope.tuning.ask_tell import DELAYED, StrengthTuning


@pytest.mark.parametrize("strength", [10**-2.7, 10**-1.6, 10**-1.5])
def test_the_worth_of_a_strength_is_the_mean_of_its_runs(strength: float) -> None:
    random = np.random.default_rng(0)
    runs = [simulated.run(simulated.hill, strength, random) for _ in range(4000)]
    mean = np.mean([0.1 if value is None else value for value in runs])
    assert simulated.worth(simulated.hill, strength) == pytest.approx(mean, abs=0.02)


def test_a_grid_costs_all_its_runs() -> None:
    row = simulated.grid(simulated.flat, 0)
    assert row["steps"] == len(StrengthTuning(simulated.LOW, simulated.HIGH).strengths) * 5 * 400


def test_the_grid_of_trainings_holds_every_strength_that_tune_may_try() -> None:
    found = cells(2)
    for seed in (0, 1):
        mine = [(x, schedule) for s, x, schedule in found if s == seed]
        assert [x for x, schedule in mine if schedule is None] == [0.0, *StrengthTuning(LOW, HIGH).strengths]
        assert 3 < sum(schedule == DELAYED for _, schedule in mine) < len(mine) / 2
