"""`search_tolerance` with a plain function, in this process."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

import gradscope
from gradscope import InputError
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.search import _start_of_delayed
from gradscope.trials.run_trial import _outcome, run_function_trial
from gradscope.trials.search_session import name_of
from gradscope.trials.trial import Trial
from tests.helpers.loops import narrow, train_on_signs


def train(strength: float, seed: int, path: Path, steps: int = 400) -> None:
    """A deep narrow net on a task it can learn: the label is in the first feature."""
    torch.manual_seed(seed)
    model = narrow()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2 * strength)
    with gradscope.record(model, optimizer, path, horizon=steps) as run:
        train_on_signs(model, optimizer, steps, run)


def halving(strength: float, seed: int, path: Path) -> None:
    train(strength / 2, seed, path)


def failing(strength: float, seed: int, path: Path) -> None:
    raise RuntimeError("out of memory")


def silent(strength: float, seed: int, path: Path) -> None:
    pass


def test_a_plain_function(tmp_path: Path) -> None:
    told = []
    found = gradscope.search_tolerance(train, 1e-4, 1.0, out=tmp_path / "s", max_trials=8, on_trial=told.append)
    assert [now.trials for now in told] == list(range(1, 9))
    assert told[-1].steps == found.steps_run
    assert all(sum(now.density) == pytest.approx(1) for now in told)
    assert all(now.rest <= 8 - now.trials for now in told)
    assert len(told) == len(found.trials) == 8
    assert found.determined
    assert found.low is not None and found.tolerance is not None and found.high is not None
    assert found.low < found.tolerance < found.high
    assert {t.verdict for t in found.trials} >= {"collapsed", "healthy"}
    assert all(t.early_failed is None for t in found.trials if not t.audit)
    assert any(t.stopped_early for t in found.trials)
    assert found.as_dict()["weight_decay"] == pytest.approx(2 * found.tolerance)


def test_several_processes(tmp_path: Path) -> None:
    found = gradscope.search_tolerance(train, 0.05, 1.0, workers=2, out=tmp_path / "s", max_trials=2)
    assert [t.verdict for t in found.trials] == ["collapsed"] * 2
    assert not found.determined


@pytest.mark.thorough
def test_the_delayed_level_too(tmp_path: Path) -> None:
    found = gradscope.search_tolerance(train, 1e-3, 0.3, delayed=True, out=tmp_path / "s", max_trials=5)
    assert found.delayed is not None
    assert set(found.as_dict()) >= {"delayed_tolerance", "delayed_low", "delayed_high", "delayed_reason"}
    assert found.delayed_trials
    assert sorted(p.name for p in (tmp_path / "s").glob("delayed-*.h5"))


@pytest.mark.parametrize(("fails_from", "begins"), [(100.0, 5.0), (0.0001, 0.001)])
def test_the_delayed_level_begins_where_the_first_one_cannot_be(fails_from: float, begins: float) -> None:
    """All strengths were borne: near the upper end; none was: at the lower one."""
    first = ToleranceSearch(0.001, 10.0, seed=1)
    while not first.done:
        plan = first.ask()
        first.tell(plan.over(float(plan.strength > fails_from), 10))
    assert not first.estimate().determined
    assert _start_of_delayed(first, 0.001, 10.0) == begins


@pytest.mark.parametrize(
    ("function", "message"),
    [(halving, "half of it"), (failing, "RuntimeError: out of memory"), (silent, "without the record")],
)
def test_mistakes_of_the_function(tmp_path: Path, function, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradscope.search_tolerance(function, 0.01, 1.0, out=tmp_path / "s", max_trials=2)
    with pytest.raises(InputError, match="expected low < high"):
        gradscope.search_tolerance(function, 1.0, 0.01, out=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def leaving(strength: float, seed: int, path: Path) -> None:
    raise SystemExit(3)


def test_a_training_that_leaves_by_itself_costs_a_trial_and_not_the_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a trial could not be run, 3 times in a row: SystemExit: 3"):
        gradscope.search_tolerance(leaving, 0.01, 1.0, out=tmp_path / "s", max_trials=5)


def test_a_delayed_run_has_to_be_followed(healthy_run: Path) -> None:
    """Too weak a penalty for five of its e-folding times to pass: the outcome says nothing, and the note why."""
    with gradscope.open_run(healthy_run) as dataset:
        judge = judge_record(dataset)
        found = judge.diagnosis(finished=True)
        judge = cast(Judge, SimpleNamespace(series=judge.series, settled_step=None))
        failed, note, shortfall = _outcome(True, judge, found, stopped=False, delayed=True)
        assert (failed, shortfall) == (0.5, pytest.approx(5 / 1.4, rel=0.04))
        assert note == "it ends 1.4 e-folding times after its penalty came on, 5 are needed"
        assert _outcome(True, judge, found, stopped=False, delayed=False) == (0.0, "", 1.0)
        assert _outcome(True, judge, found, stopped=True, delayed=True) == (found.probability_failed, "", 1.0)


def test_a_delayed_run_whose_penalty_never_came_on_says_nothing(healthy_run: Path) -> None:
    with gradscope.open_run(healthy_run) as dataset:
        off = dataset.assign(strength=dataset["strength"] * 0)
        judge = judge_record(off)
        found = judge.diagnosis(finished=True)
        note = "it ends before its penalty came on"
        assert _outcome(False, judge, found, stopped=False, delayed=True) == (0.5, note, 1.0)


def test_an_audit_runs_to_the_horizon_and_notes_the_early_word(tmp_path: Path) -> None:
    trial = run_function_trial(train, Trial(0, 0.3, 3, audit=True), tmp_path / "t.h5", "l2")
    assert (trial.steps, trial.stopped_early, trial.failed, trial.early_failed) == (400, False, 1.0, True)
    assert trial.early_failed is True


def test_names_that_a_journal_can_know_a_function_by() -> None:
    assert name_of(train) == "train"
    assert name_of(functools.partial(train, steps=3)) == "train(steps=3)"
    assert "0x" not in name_of(functools.partial(functools.partial(train, 0.1), 4))
