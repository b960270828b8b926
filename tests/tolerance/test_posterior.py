"""The posterior of the tolerance level and the placement of trials, without any training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from gradscope import InputError
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import LAPSE, TILT, EarlyErrors, Posterior, estimate_tolerance
from gradscope.trials.trial import Outcome, Trial


def simulate(level: float, slope: float, seed: int, **options: float) -> ToleranceSearch:
    """A search against a made-up training whose outcomes follow the curve."""
    random = np.random.default_rng(seed)
    search = ToleranceSearch(1e-4, 1.0, seed=seed, **options)  # type: ignore[arg-type]
    while not search.done:
        plan = search.ask()
        fails = ndtr((math.log10(plan.strength) - level) / slope)
        search.tell(plan.over(float(random.random() < fails), 100))
    return search


def test_posterior_equals_a_sum_over_the_grid() -> None:
    posterior = Posterior(1e-3, 1.0)
    posterior.errors = EarlyErrors(0.03, 0.05)
    outcomes = [Outcome(0.01, 0.0), Outcome(0.1, 1.0), Outcome(0.03, 0.7), Outcome(0.05, 0.98, early=True)]
    weights = np.ones(len(posterior.level))[:, None] * posterior.slope**TILT
    for o in outcomes:
        posterior.update(o)
        for i, level in enumerate(posterior.level):
            for j, slope in enumerate(posterior.slope):
                p = LAPSE / 2 + (1 - LAPSE) * ndtr((math.log10(o.strength) - level) / slope)
                p = 0.03 * (1 - p) + (1 - 0.05) * p if o.early else p
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
    assert coverage(slope, 12) >= 0.75


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
    plans = [search.ask() for _ in range(8)]
    assert len({plan.strength for plan in plans}) > 4
    assert [plan.seed for plan in plans] == list(range(8))
    assert all(1e-4 <= plan.strength <= 1.0 for plan in plans)
    assert ToleranceSearch(1e-4, 1.0, seed=2).ask().seed not in {plan.seed for plan in plans}


def test_what_is_under_way_is_not_asked_again() -> None:
    """A bracketed search asks elsewhere while its best question waits for an answer, and stops at its limit."""
    search = simulate(-1.7, 0.02, 1, max_trials=10)
    search.max_trials = 14
    batch = [search.ask().strength for _ in range(4)]
    assert len(set(batch)) >= 3
    assert search.done
    search.lose(10)
    assert search.done  # a lost trial counts as tried
    search.skip(11)
    assert not search.done


def test_bisection_serves_to_bracket_only() -> None:
    search = ToleranceSearch(1e-4, 1.0)
    asked = []
    for _ in range(3):
        plan = search.ask()
        asked.append(math.log10(plan.strength))
        search.tell(plan.over(1.0, 100))
    np.testing.assert_allclose(asked, [-2, -3.2, -3.9], atol=0.35)
    search.tell(Trial(3, 1e-4, 0).over(0.0, 100))
    low, high = 10 ** search.posterior.quantile([0.05, 0.95])
    assert low < search.ask().strength < high


def test_trials_are_weighed_by_their_cost() -> None:
    """Where a failure costs thirty times as much, the next trial is one that rather learns."""
    chosen = []
    for steps in (100, 3000):
        search = ToleranceSearch(1e-3, 1.0)
        for number, (strength, failed) in enumerate([(0.03, 1.0), (0.003, 0.0), (0.01, 0.0), (0.017, 1.0)]):
            search.tell(Trial(number, strength, 0).over(failed, steps if failed else 100, stopped_early=True))
        chosen.append(search.ask().strength)
    assert chosen[1] < chosen[0]


@pytest.mark.parametrize(("answer", "side"), [(1.0, "lies below"), (0.0, "lies above")])
def test_a_range_without_a_transition_ends_soon_and_says_the_side(answer: float, side: str) -> None:
    search = ToleranceSearch(1e-4, 1.0)
    while not search.done:
        plan = search.ask()
        search.tell(plan.over(answer, 100))
    assert len(search.told) < 12
    assert side in search.estimate().reason
    assert search.rest() == 0


def test_trials_that_say_nothing_end_the_search_and_say_why() -> None:
    search = ToleranceSearch(1e-4, 1.0)
    while not search.done:
        plan = search.ask()
        search.tell(plan.over(0.5, 100, note="it ends too soon"))
    assert len(search.told) == 3
    found = search.estimate()
    assert not found.determined
    assert found.reason.endswith("3 trials says anything about the penalty: it ends too soon")


def delayed(level: float, whole: float, seed: int) -> ToleranceSearch:
    """A made-up training with a delay, whose strengths below about ``whole`` have too little time to fail or learn."""
    random = np.random.default_rng(seed)
    search = ToleranceSearch(1e-3, 1.0, seed=seed, max_trials=16, precision=0.2)
    while not search.done:
        plan = search.ask()
        shortfall = whole / plan.strength * random.uniform(0.7, 1.3)  # later or earlier by its seed
        failed = float(random.random() < ndtr((math.log10(plan.strength / level)) / 0.05))
        told = plan.over(failed, 100)
        if shortfall > 1:
            told = plan.over(0.5, 100, note="it ends too soon", shortfall=shortfall)
        search.tell(told)
    return search


@pytest.mark.parametrize("seed", range(5))
def test_strengths_without_the_time_to_show_what_they_do_are_left_behind(seed: int) -> None:
    search = delayed(level=0.3, whole=0.15, seed=seed)
    found = search.estimate()
    assert found.determined
    assert found.low is not None and found.tolerance is not None and found.high is not None
    assert 0.2 < found.low < found.high < 0.5
    assert sum(trial.silent for trial in search.told) <= 4

    search = delayed(level=0.05, whole=0.15, seed=seed)  # the level is among them
    found = search.estimate()
    assert not found.determined
    assert "the level lies below" in found.reason and "weaker penalties need longer runs" in found.reason
    assert len(search.told) < 16

    search = delayed(level=0.3, whole=10.0, seed=seed)  # all of them are
    assert search.estimate().reason.endswith("it ends too soon")
    assert len(search.told) < 10
    assert all(trial.strength <= 1.0 for trial in search.told)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_a_late_run_moves_no_range_where_a_weaker_penalty_has_spoken(order: tuple[int, ...]) -> None:
    """Whichever of them ends first."""
    trials = [
        Trial(0, 0.01, 0).over(0.0, 100),
        Trial(0, 0.1, 0).over(0.5, 100, shortfall=3.0),
        Trial(0, 0.3, 0).over(0.5, 100, shortfall=3.0),
    ]
    search = ToleranceSearch(1e-3, 1.0)
    for number in order:
        search.tell(replace(trials[number], number=number))
    assert search.posterior.low == pytest.approx(-3)
    assert sum(trial.silent for trial in search.told) == 2


def test_a_range_of_which_only_the_end_can_speak() -> None:
    for low in (1e-3, 0.5):
        search = ToleranceSearch(low, 1.0, max_trials=10)
        while not search.done:
            plan = search.ask()
            shortfall = 0.95 / plan.strength
            silent = plan.over(0.5, 100, shortfall=shortfall)
            search.tell(silent if shortfall > 1 else plan.over(0.0, 100))
        assert "learn, up to" in search.estimate().reason
        assert " nothing: the level lies above" in search.estimate().reason


def test_where_nothing_speaks_no_more_is_asked() -> None:
    """Learning runs speak below .06 and failing ones above .09; between them all runs end too soon."""
    search = ToleranceSearch(1e-2, 1.0)
    while not search.done:
        plan = search.ask()
        between = 0.06 < plan.strength < 0.09
        failed = 0.5 if between else float(plan.strength > 0.07)
        search.tell(plan.over(failed, 100, note="it ends too soon"))
    found = search.estimate()
    assert found.low is not None and found.high is not None
    assert 0.05 < found.low < 0.06 and 0.09 < found.high < 0.105  # the edges of what speaks
    assert len(search.told) < 35
    assert [trial.silent for trial in search.told[-6:]] == [True] * 6
    assert found.reason.endswith("more say nothing; the last 6, of 0.0646 to 0.0851: it ends too soon")


def test_silence_is_walked_away_from_before_both_sides_have_spoken() -> None:
    """The first trial fails; weaker ones say nothing, but for those below .03, which learn."""
    search = ToleranceSearch(1e-2, 1.0)
    while not search.done:
        plan = search.ask()
        failed = 0.5 if 0.03 < plan.strength < 0.05 else float(plan.strength > 0.04)
        search.tell(plan.over(failed, 100, note="it ends too soon"))
    learned = [trial.strength for trial in search.told if trial.failed < 0.5]
    assert 0.02 < max(learned) < 0.03
    assert search.estimate().determined


def test_silence_explains_an_interval_only_if_it_is_wide_and_within_reach() -> None:
    def silent(search: ToleranceSearch, strengths: list[float], shortfall: float = 1.0) -> None:
        for strength in strengths:
            search.tell(
                Trial(len(search.told), strength, 0).over(0.5, 100, note="it ends too soon", shortfall=shortfall)
            )

    wide = ToleranceSearch(1e-3, 1.0, max_trials=8)
    for number, (strength, failed) in enumerate([(0.1, 1.0), (0.01, 0.0)]):
        wide.tell(Trial(number, strength, 0).over(failed, 100))
    silent(wide, [0.03] * 6)
    assert wide.done and "the last 6" in wide.estimate().reason and "allow more" not in wide.estimate().reason

    narrow = ToleranceSearch(1e-3, 1.0, precision=3.0)
    for number, (strength, failed) in enumerate([(0.1, 1.0), (0.01, 0.0)]):
        narrow.tell(Trial(number, strength, 0).over(failed, 100))
    silent(narrow, [0.03] * 6)
    assert "the last 6" not in narrow.estimate().reason

    behind = ToleranceSearch(1e-3, 1.0)
    behind.tell(Trial(0, 0.871, 0).over(1.0, 100))
    silent(behind, [0.093, 0.058, 0.032, 0.011, 0.0035, 0.001], shortfall=1.7)
    assert behind.posterior.low > math.log10(0.1)
    assert not behind.done


def test_one_trial_is_told_of_in_the_singular() -> None:
    for failed, told in ((1.0, "the one trial fails, at 0.1: "), (0.0, "the one trial learns, at 0.1: ")):
        assert ToleranceSearch(1e-2, 1.0).posterior.estimate([Outcome(0.1, failed)]).reason.startswith(told)


def test_audits_enter_the_posterior() -> None:
    """An early word that audits find wrong is trusted less: the interval widens, to both sides or one."""
    told = [
        Trial(0, s, 0).over(float(s > 0.02), 100, stopped_early=True) for s in (0.001, 0.01, 0.018, 0.022, 0.03, 0.1)
    ]
    widths = []
    for wrong in (0, 6):
        search = ToleranceSearch(1e-4, 1.0)
        for number, trial in enumerate(told):
            search.tell(replace(trial, number=number))
        for number in range(6, 14):
            search.tell(Trial(number, 0.001, 0).over(0.0, 100, early_failed=number < 6 + wrong))
        widths.append(search.estimate().decades)
    assert widths[0] < 0.6 * widths[1]
    errors = search.errors
    assert errors.alarms == pytest.approx((0.5 + 6) / (50 + 8))
    assert errors.misses == pytest.approx(0.01)


def test_soft_outcomes_say_less() -> None:
    def level(failed: float) -> float:
        posterior = Posterior(1e-3, 1.0)
        for strength, outcome in ((0.01, 0.0), (0.1, 1.0), (0.03, failed)):
            posterior.update(Outcome(strength, outcome))
        return float(posterior.quantile(0.5))

    assert level(1.0) < level(0.8) < level(0.5) < level(0.2) < level(0.0)
    nothing = Posterior(1e-3, 1.0)
    before = nothing.weights.copy()
    nothing.update(Outcome(0.03, 0.5))
    np.testing.assert_allclose(nothing.weights, before)
    assert "says anything" in nothing.estimate([Outcome(0.03, 0.5)]).reason


def test_too_few_trials_are_said_to_be_too_few() -> None:
    search = simulate(-2, 0.02, 3, max_trials=6)
    found = search.estimate()
    assert found.determined
    assert found.decades > 0.1
    assert "0.1 wanted: allow more trials" in found.reason
    assert found.safe is not None and found.tolerance is not None and found.safe < found.tolerance


def test_the_safe_strength_fails_one_time_in_twenty() -> None:
    posterior = Posterior(1e-3, 1.0)
    for k in range(200):
        posterior.update(Outcome(0.02, k % 2))
        posterior.update(Outcome(0.02 * 10**0.1, float(k % 20 > 2)))
    assert posterior.safe() == pytest.approx(math.log10(0.02) - 1.645 * posterior.mean_slope(), abs=0.03)


def test_a_search_replays_its_journal() -> None:
    search = simulate(-2, 0.05, 3, max_trials=10)
    again = ToleranceSearch(1e-4, 1.0, seed=3, max_trials=10)
    for trial in search.told:
        again.tell(trial)
    assert again.done
    assert again.estimate() == search.estimate()
    assert again.ask() == search.ask()  # and goes on as if it had never stopped


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
