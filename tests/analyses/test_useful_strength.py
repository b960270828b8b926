"""The study of the useful strength: its curves, its trainings, and what it counts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analyses.common.results import Results
from analyses.common.study import Options
from analyses.useful_strength import replayed, simulated, tables
from analyses.useful_strength.regret import DOUBT, Curve
from analyses.useful_strength.runs import GRID, grid
from analyses.useful_strength.tables import Found
from analyses.useful_strength.tasks import TASKS, accuracies, named, train
from gradscope import InputError
from gradscope.trials.run_trial import run_function_trial
from gradscope.trials.trial import Trial
from gradscope.tuning.ask_tell import DELAYED, StrengthTuning


@pytest.mark.parametrize("strength", [10**-2.7, 10**-1.6, 10**-1.5])
def test_the_worth_of_a_strength_is_the_mean_of_its_runs(strength: float) -> None:
    runs = simulated.Runs(simulated.hill, 0.0, 0)
    mean = np.mean([0.1 if (value := runs.of(strength, k)) is None else value for k in range(4000)])
    assert simulated.worth(simulated.hill, strength) == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize("share", simulated.SHARES)
def test_a_share_of_a_simulated_scatter_is_the_seeds(share: float) -> None:
    runs = simulated.Runs(simulated.flat, share, 1)
    pairs = np.array([[runs.of(10**-3, k), runs.of(10**-2.5, k)] for k in range(2000)], dtype=float)
    assert pairs.std() == pytest.approx(simulated.NOISE, rel=0.05)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(share, abs=0.06)


def test_a_grid_costs_all_its_runs() -> None:
    row = simulated.grid(simulated.flat, 0.0, 0)
    assert row["steps"] == len(StrengthTuning(simulated.LOW, simulated.HIGH).strengths) * 5 * 400


def asked(tmp_path: Path, *tasks: str) -> Options:
    more = {"tasks": tasks, "repeats": 1, "delayed_repeats": 0}
    return Options("", "small", 3, "cpu", Path(), 1, "local", (), tmp_path / "results", more=more)


@pytest.mark.parametrize("name", TASKS)
def test_the_grid_of_trainings_holds_strengths_that_tune_may_try(tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    strengths = StrengthTuning(task.low, task.high).strengths
    for seed in range(3):
        mine = [(c["strength"], c["schedule"]) for c in grid(asked(tmp_path, name)) if c["seed"] == seed]
        assert [x for x, schedule in mine if schedule is None] == [0.0, *strengths]
        assert (sum(schedule == DELAYED for _, schedule in mine) > 3) == (task.delayed is not None)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "cifar10"])  # its images are not everywhere
def test_a_task_knows_how_long_its_runs_are(name: str) -> None:
    assert TASKS[name].examples == len(TASKS[name].data().x)


def test_photographs_are_not_needed_to_tell_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADSCOPE_CIFAR10", raising=False)
    found = Found(Path(tables.__file__).parent / "results")
    (task,) = (task for task, _ in found.curves if task.name == "cifar10")
    assert task.steps == 400
    assert len(found.of_the_grid(task, dict(found.curves)[task])) == 10


def test_a_training_is_the_same_with_and_without_a_record(tmp_path: Path) -> None:
    """Optuna's trials are not recorded, the others are."""
    task = TASKS["digits"]
    *_, alone = accuracies(task, 0.001, 3)
    plan = Trial(0, 0.001, 3, False, None, whole=True)
    trial = run_function_trial(partial(train, "digits"), plan, tmp_path / "run.h5", "l2", "accuracy")
    assert (trial.value, trial.steps) == (pytest.approx(alone, abs=1e-7), task.steps)
    with pytest.raises(InputError, match="task is 'nets'; expected one of digits"):
        named("nets")


def test_regret_is_what_a_strength_lacks_of_the_best() -> None:
    """A hill over 41 strengths: little where it is high, most where it is low, in deviations of a seed."""
    random, strengths = np.random.default_rng(0), StrengthTuning(1e-4, 1.0).strengths
    height = [0.9 - 0.03 * (np.log10(x) + 2.7) ** 2 for x in strengths]
    curve = Curve({x: h + 0.01 * random.standard_normal(5) for x, h in zip(strengths, height, strict=True)})
    assert curve.deviation == pytest.approx(0.01, rel=0.3)
    assert abs(np.log10(curve.best) + 2.7) < 0.4
    assert curve.regret(curve.best) == 0
    assert curve.regret(1e-4) == pytest.approx((0.9 - height[0]) / curve.deviation, abs=1)
    assert curve.against_means(curve.best) >= 0
    assert curve.in_the_set(float(curve.strengths[curve.means.argmax()]))
    assert not curve.in_the_set(1.0)
    assert curve.against_means(1.0) > DOUBT
    assert curve.of_one_seed(0) in strengths


def test_what_a_seed_does_everywhere_is_no_deviation_of_pairs() -> None:
    random, strengths = np.random.default_rng(0), StrengthTuning(1e-4, 1.0).strengths
    seeds = 0.1 * random.standard_normal(5)
    curve = Curve({x: 0.8 + seeds + 0.01 * random.standard_normal(5) for x in strengths})
    assert curve.within == pytest.approx(0.01, rel=0.2)
    assert curve.deviation > 3 * curve.within


def test_a_tuning_is_replayed_from_a_grid(tmp_path: Path) -> None:
    """A curve whose seeds lie a fifth apart: nothing is trained, and the best of it is found."""
    here = asked(tmp_path, "digits")
    random, of_seed = np.random.default_rng(0), (0.0, 0.1, -0.1)
    assert replayed.cells(here) == []  # no grid yet
    Results(tmp_path / GRID).append(*(
        {
            "task": "digits", "seed": seed, "strength": x, "schedule": None, "failed": 0.0, "steps": 320,
            "stopped": False, "accuracy": 0.8 - 0.03 * (np.log10(x or 1e-4) + 2) ** 2 + of_seed[seed]
            + 0.003 * random.standard_normal(),
        }
        for x in (0.0, *replayed.strengths("digits")) for seed in range(3)
    ))  # fmt: skip
    planned = replayed.cells(here)
    assert len(planned) == replayed.REPEATS
    row = replayed.repeat(planned[0], here)
    assert abs(np.log10(row["strength"]) + 2) < 0.4
    assert row["steps"] == 320 * row["trials"] > 0
