"""The tuning of a strength: ask/tell against curves that are known, then real trainings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope import InputError
from gradscope.store.record import Record
from gradscope.trials.trial import Trial
from gradscope.tuning.ask_tell import DELAYED, StrengthTuning
from gradscope.tuning.metric_curve import MetricCurve, Squash
from gradscope.tuning.placement import Arm, Scene, knowledge_gradient
from gradscope.tuning.result import concluded, difference
from gradscope.tuning.trials_seen import PAIRED
from tests.helpers.loops import batches

Metric = Callable[[float, bool], float]


def hill(x: float, delayed: bool) -> float:
    """Best at 10^-2.7; a run without a penalty has .8."""
    return 0.8 if math.isinf(x) else 0.9 - 0.03 * (x + 2.7) ** 2 - 0.5 * max(0.0, x + 2) ** 2


def rising(x: float, delayed: bool) -> float:
    """The stronger the better, up to where nothing is learned any more."""
    return 0.8 if math.isinf(x) else 0.8 + 0.05 * (x + 4)


def flat(x: float, delayed: bool) -> float:
    """The penalty changes nothing."""
    return 0.9


def answered(plan: Trial, metric: Metric, random: np.random.Generator, level: float, delayed_level: float) -> Trial:
    """A run of 400 steps that fails, after 100, above its tolerance level, and scatters by .01."""
    x = math.log10(plan.strength) if plan.strength else -math.inf
    failed = x + 0.03 * random.standard_normal() > (delayed_level if plan.schedule else level)
    value = None if failed else metric(x, plan.schedule is not None) + 0.01 * random.standard_normal()
    certain = 0.5 if plan.strength == 0 else 0.99 if failed else 0.0
    steps = 100 if failed else 400
    return plan.over(certain, steps, stopped_early=failed, value=value)


def tuned(
    metric: Metric, seed: int = 0, level: float = -1.6, delayed_level: float = -1.0, **options: object
) -> StrengthTuning:
    random = np.random.default_rng(seed)
    tuning = StrengthTuning(1e-4, 1.0, seed=seed, **options)  # type: ignore[arg-type]
    while not tuning.done:
        plan = tuning.ask()
        assert plan.whole
        tuning.tell(answered(plan, metric, random, level, delayed_level))
    return tuning


def result_of(tuning: StrengthTuning) -> gradscope.TuneResult:
    return concluded(tuning, [], "l2", "accuracy", tuning.lost, None)


# -- the decision ---------------------------------------------------------------------------------


def test_the_best_strength_of_a_hill() -> None:
    tuning = tuned(hill)
    found = result_of(tuning)
    assert found.determined
    assert found.best is not None
    assert hill(math.log10(found.best.strength), False) > 0.9 - 0.01
    assert found.best.low <= 10**-2.7 <= found.best.high
    assert found.best.low <= found.best.strength <= found.best.high
    assert found.without == pytest.approx(0.8, abs=0.02)
    assert found.gain == pytest.approx(0.1, abs=0.02)
    assert found.difference is not None
    assert found.difference.told
    assert found.difference.pairs == 5
    assert found.useful is not None
    # less .009: the curve has it at 10^-2.2; a single strength is known to .01
    assert 10**-2.6 < found.useful.strength < 10**-1.8
    assert found.tolerance.low is not None and found.tolerance.high is not None
    failing = [t for t in tuning.told if t.measured is None]
    assert len(failing) <= 5
    assert all(t.steps == 100 for t in failing)
    assert sum(t.steps for t in tuning.told) < 0.5 * 17 * 5 * 400  # a grid of 17 strengths and 5 seeds


def test_the_pairs_have_seeds_that_the_choice_has_not_seen() -> None:
    tuning = tuned(hill)
    best = tuning.finalists[0]
    paired = {t.seed for t in tuning.told if t.seed >= PAIRED}
    assert tuning.values(best, True).keys() == tuning.values(Arm(0.0), True).keys() == paired
    assert {t.strength for t in tuning.told if t.seed in paired} == {0.0, best.strength}
    before = [t.seed for t in tuning.told].index(PAIRED)
    assert all(t.seed >= PAIRED for t in tuning.told[before:])


@pytest.mark.thorough
def test_a_delay_that_was_not_tried_is_not_called_useless() -> None:
    few = tuned(hill, delayed=True, max_trials=12, repeats=2)
    assert not any(t.schedule for t in few.told)
    assert "whether a delay adds anything is not known: no delayed strength was tried" in result_of(few).advice
    worse = tuned(lambda x, delayed: hill(x, delayed) - 0.3 * delayed, delayed=True)
    assert any(t.schedule for t in worse.told)
    advice = result_of(worse).advice
    assert "the delay costs 0.3" in advice or "the delay costs 0.2" in advice, advice


@pytest.mark.thorough
def test_a_penalty_that_changes_nothing_gains_nothing() -> None:
    gains = [result_of(tuned(flat, seed)) for seed in range(3)]
    assert all(found.determined and found.gain is not None and abs(found.gain) < 0.02 for found in gains)
    assert sum(found.difference is not None and found.difference.told for found in gains) <= 1
    told = next(found for found in gains if found.difference is not None and not found.difference.told)
    assert "no more than chance, p = " in told.advice
    assert told.useful is not None
    assert told.useful.strength > 10**-2.2  # up to near the level


@pytest.mark.thorough
def test_what_only_a_delay_reaches() -> None:
    tuning = tuned(rising, delayed=True, max_trials=50)
    found = result_of(tuning)
    assert found.best is not None
    assert found.best.schedule == DELAYED
    assert found.best.strength > 10**-1.6
    assert found.delay is not None
    assert found.delay.gain > 0
    assert f"with a delay (--schedule {DELAYED})" in found.advice
    weakest = min(arm.strength for arm in tuning.arms(DELAYED))
    assert weakest > 10**-3  # the curve from the start is known there


def test_zeros_are_told_at_the_best_and_at_the_strongest_useful_strength() -> None:
    tuning = tuned(hill)
    trials = [replace(t, sparsity=min(1.0, 50 * t.strength)) for t in tuning.told]
    found = concluded(tuning, trials, "l1", "accuracy", 0, None)
    assert found.best is not None
    assert found.best.sparsity == pytest.approx(50 * found.best.strength)
    assert found.useful is not None
    assert found.useful.sparsity == pytest.approx(50 * found.useful.strength, rel=0.1)  # between those that were tried
    assert f"with {found.useful.sparsity:.0%} of the penalised weights exactly 0" in found.advice
    assert found.as_dict()["best"]["weight_decay"] is None


def test_a_smaller_metric_can_be_the_better_one() -> None:
    found = result_of(tuned(lambda x, d: 1 - hill(x, d), mode="min"))
    assert found.best is not None
    assert hill(math.log10(found.best.strength), False) > 0.9 - 0.01
    assert found.best.value == pytest.approx(0.1, abs=0.02)
    assert found.gain == pytest.approx(0.1, abs=0.02)  # above 0 is better


def test_a_training_that_fails_without_a_penalty_is_no_matter_of_its_strength() -> None:
    tuning = StrengthTuning(1e-4, 1.0)
    plan = tuning.ask()
    assert plan.strength == 0
    tuning.tell(plan.over(0.5, 100, note="stalled at step 99"))
    assert tuning.done
    found = result_of(tuning)
    assert not found.determined
    assert found.as_dict()["best"] == dict.fromkeys(found.as_dict()["best"])
    assert found.reason == "the training fails without a penalty, too (stalled at step 99): no matter of its strength"


def test_a_seed_that_fails_without_a_penalty_says_nothing_of_one() -> None:
    """A net that is dead as it is initialised: in the pairs it is no failure of the strength, whichever ends first."""
    for late in (False, True):
        random, tuning, held = np.random.default_rng(0), StrengthTuning(1e-4, 1.0, max_trials=24), []
        bad = PAIRED + 1
        while not tuning.done or held:
            plan = tuning.ask() if not tuning.done else None
            if plan is None or (held and plan.seed != bad):
                for trial in held:  # that without a penalty comes in last
                    tuning.tell(trial)
                held = []
            if plan is None:
                continue
            if plan.seed == bad:
                over = plan.over(0.5 if plan.strength == 0 else 1.0, 400, note="dead units", verdict="stalled")
                held.append(over) if late and plan.strength == 0 else tuning.tell(over)
            else:
                tuning.tell(answered(plan, hill, random, -1.6, -1.0))
        found = result_of(tuning)
        assert found.determined, found.reason
        assert found.best is not None
        assert hill(math.log10(found.best.strength), False) > 0.9 - 0.01
        assert found.tolerance.low is not None
        assert found.tolerance.high is not None
        assert found.tolerance.low < 10**-1.6 < found.tolerance.high
        assert found.difference is not None
        assert found.difference.pairs >= 3


def test_where_every_strength_fails() -> None:
    tuning = tuned(hill, level=-6)
    found = result_of(tuning)
    assert not found.determined
    assert found.reason == "no run with a penalty learns, down to 0.0001: try weaker ones"
    assert len(tuning.told) < 12


def test_a_budget_leaves_room_for_the_pairs() -> None:
    tuning = tuned(hill, max_trials=6)
    assert len(tuning.told) <= 6
    found = result_of(tuning)
    assert found.difference is not None
    assert found.difference.pairs == 2


def test_going_on_asks_what_an_unbroken_tuning_would_have_asked() -> None:
    whole = tuned(hill)
    again = StrengthTuning(1e-4, 1.0)
    again.skip(3)
    for number, trial in enumerate(whole.told[:9]):
        again.tell(replace(trial, number=number))
    assert not again.done
    first = again.ask()
    assert (first.strength, first.seed) == (whole.told[9].strength, whole.told[9].seed)


def test_several_at_a_time_end_with_the_same_kind_of_answer() -> None:
    random, tuning = np.random.default_rng(0), StrengthTuning(1e-4, 1.0)
    running: list[Trial] = []
    while running or not tuning.done:
        while len(running) < 3 and not tuning.done:
            running.append(tuning.ask())
        plan = running.pop(int(random.integers(len(running))))
        if plan.number == 4:
            tuning.lose(plan.number)
        else:
            tuning.tell(answered(plan, hill, random, -1.6, -1.0))
    found = result_of(tuning)
    assert found.best is not None
    assert hill(math.log10(found.best.strength), False) > 0.88
    assert len({(t.strength, t.schedule, t.seed) for t in tuning.told}) == len(tuning.told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "expected low < high"),
        ({"mode": "best"}, "mode is 'best'; expected one of max, min"),
        ({"cost": 1.0}, "cost is 1; expected a share"),
        ({"repeats": 1}, "at least 2 pairs"),
        ({"max_trials": 5}, "expected at least 6"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_mistakes(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StrengthTuning(**{"low": 1e-3, "high": 1.0, **options})  # type: ignore[arg-type]


# -- arithmetic -----------------------------------------------------------------------------------


def test_pairs_are_compared_by_students_test() -> None:
    from scipy.stats import ttest_rel

    here, there = {1: 0.91, 2: 0.93, 3: 0.90, 9: 0.1}, {1: 0.90, 2: 0.89, 3: 0.88}
    found = difference(here, there, 1.0)
    assert found is not None
    assert found.pairs == 3
    assert found.p_value == pytest.approx(ttest_rel([0.91, 0.93, 0.90], [0.90, 0.89, 0.88]).pvalue)
    assert found.gain == pytest.approx(np.mean([0.01, 0.04, 0.02]))
    assert difference({1: 1.0}, {2: 1.0}, 1.0) is None
    alone = difference({1: 1.0}, {1: 0.5}, -1.0)
    assert alone is not None
    assert (alone.gain, alone.p_value) == (-0.5, None)
    same = difference({1: 1.0, 2: 1.0}, {1: 1.0, 2: 1.0}, 1.0)
    assert same is not None
    assert same.p_value == 1.0


def test_a_squash_can_be_undone() -> None:
    squash = Squash(0.9, 0.1)
    y = np.array([0.95, 0.9, 0.89, 0.5, 0.1])
    assert squash.natural(squash(y)) == pytest.approx(y)
    assert squash(y)[-1] > 0.8


def test_the_noise_is_that_of_repeats() -> None:
    random = np.random.default_rng(0)
    values = {(float(x), 0.0): list(1.0 - 0.05 * x**2 + 0.02 * random.standard_normal(6)) for x in range(-3, 3)}
    assert MetricCurve(values).noise == pytest.approx(0.02, rel=0.35)


def test_the_knowledge_gradient_against_simulation() -> None:
    """The quadrature against drawing the run's metric and looking at the posterior mean after it."""
    at = np.linspace(0, 1, 6)
    covariance = 0.04 * np.exp(-((at[:, None] - at) ** 2) / 0.1)
    mean, noise = 0.8 + 0.1 * at * (1 - at), 0.05
    arms = [Arm(float(10**x)) for x in at]
    scene = Scene(arms, mean, covariance, np.zeros(6), 0.0, noise, Squash(1.0, 1.0))
    gains = knowledge_gradient(scene)
    random = np.random.default_rng(1)
    for j in (0, 3):
        seen = mean[j] + math.sqrt(covariance[j, j] + noise**2) * random.standard_normal(20_000)
        after = mean[:, None] + covariance[:, [j]] / (covariance[j, j] + noise**2) * (seen - mean[j])
        assert gains[j] == pytest.approx(float(after.max(0).mean()) - mean.max(), rel=0.1)


# -- trainings ------------------------------------------------------------------------------------


def train(strength: float, seed: int, path: Path, steps: int = 200, name: str = "accuracy") -> None:
    """A deep narrow net on a task it can learn: the label is in the first feature."""
    torch.manual_seed(seed)
    layers = [m for _ in range(2) for m in (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2 * strength)
    with gradscope.record(model, optimizer, path, horizon=steps, preset="cheap") as run:
        for x, _ in batches(steps, 32):
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss, steep=loss)
        with torch.no_grad():
            x = torch.randn(500, 6, generator=torch.Generator().manual_seed(9))
            run.epoch(0, **{name: (model(x).argmax(1) == (x[:, 0] > 0)).float().mean()})


def heavy(strength: float, seed: int, path: Path) -> None:
    train(strength + 1e-5, seed, path)


@pytest.mark.thorough
def test_a_plain_function_and_going_on(tmp_path: Path) -> None:
    told: list[int] = []
    go = partial(gradscope.tune_strength, train, 1e-6, 0.1, metric="accuracy", out=tmp_path / "t", max_trials=9)
    first = go(on_trial=lambda now: told.append(now.steps))
    assert len(told) == len(first.trials) == 9
    assert told[-1] == first.steps_run
    found = first.as_dict()
    assert set(found) >= {
        *("determined", "metric", "best", "without", "gain", "p_value", "useful_up_to", "tolerance", "trials"),
        *("steps_run", "runs"),
    }
    assert found["determined"]
    assert set(found["best"]) >= {"strength", "weight_decay", "schedule", "value", "low", "high"}
    assert found["best"]["weight_decay"] == 2 * found["best"]["strength"]
    assert 1e-6 <= found["best"]["low"] <= found["best"]["strength"] <= found["best"]["high"] < 0.01
    assert found["pairs"] == 2
    assert found["runs"][0]["strength"] == 0
    failed = [t for t in first.trials if t.verdict == "collapsed"]
    assert failed
    assert all(t.steps < 200 and t.stopped_early for t in failed)
    assert all(t.steps == 200 for t in first.trials if t.verdict == "healthy")
    journal = tmp_path / "t" / "search.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-3]))  # killed while the eighth trial ran
    again = go()
    assert [(t.strength, t.seed, t.value) for t in again.trials] == [
        (t.strength, t.seed, t.value) for t in first.trials
    ]
    assert [t.number for t in again.trials] == [*range(7), 8, 9]  # a number is used once
    assert again.as_dict()["best"] == found["best"]
    with pytest.raises(InputError, match="holds a search with metric 'accuracy', and this one has 'steep'"):
        go(metric="steep")


def test_a_metric_that_is_not_in_the_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no metric 'acc'; it holds accuracy, loss, steep. Metrics come from"):
        gradscope.tune_strength(train, 1e-4, 1.0, metric="acc", out=tmp_path / "t")
    with pytest.raises(InputError, match="metric is ''"):
        gradscope.tune_strength(train, 1e-4, 1.0, metric="", out=tmp_path / "u")
    assert not (tmp_path / "u").exists()


def test_a_script_with_a_penalty_of_its_own_has_no_run_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no penalty was asked for \(strength 0\), and the record shows l2"):
        gradscope.tune_strength(heavy, 1e-4, 1.0, metric="accuracy", out=tmp_path / "t")


def test_the_journal_holds_the_schedule_and_the_metric(tmp_path: Path) -> None:
    from gradscope.trials.run_trial import run_function_trial

    plan = Trial(0, 0.001, 3, False, DELAYED, whole=True)
    trial = run_function_trial(train, plan, tmp_path / "t.h5", "l2", "steep")
    assert (trial.schedule, trial.steps) == (DELAYED, 200)
    assert trial.value is not None
    assert type(trial).from_dict(json.loads(json.dumps(trial.as_dict()))) == trial


# -- the page that newcomers follow ---------------------------------------------------------------


def _get_started(strength: float, seed: int, path: Path) -> None:
    """`train.py` of the page, as its command line is called there."""
    from tests.helpers.doc_blocks import blocks
    from tests.helpers.paths import ROOT

    text = (ROOT / "docs" / "get-started.md").read_text()
    code = next(block.code for block in blocks(text) if block.title == "train.py")
    with pytest.MonkeyPatch.context() as patch:
        words = ["train.py", "--weight-decay", str(2 * strength), "--seed", str(seed), "--out", str(path)]
        patch.setattr("sys.argv", words)
        exec(compile(code, "train.py", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_the_advice_of_get_started_is_good_when_followed(tmp_path: Path) -> None:
    """What tune names, trained with seeds that it has not seen, is as good as no penalty and far better than λ* / 2."""
    from gradscope.trials.run_trial import metric_at_end

    def accuracy(strength: float, seed: int) -> float:
        path = tmp_path / f"{strength}-{seed}.h5"
        _get_started(strength, seed, path)
        with Record(path) as record:
            value = metric_at_end(record, "accuracy")
        assert value is not None
        return value

    found = gradscope.tune_strength(_get_started, 1e-4, 1.0, metric="accuracy", out=tmp_path / "best", max_trials=16)
    assert found.best is not None
    followed = [accuracy(found.best.strength, seed) for seed in (901, 902, 903)]
    assert min(followed) > 0.84
    assert found.useful is not None
    assert np.mean([accuracy(found.useful.strength, seed) for seed in (901, 902, 903)]) > 0.84
    assert found.without is not None
    assert np.mean(followed) > found.without - 0.04
