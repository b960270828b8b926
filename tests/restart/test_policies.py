"""Restart policies: one contract for all of them, and what each decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope import InputError, Verdict, parse_schedule
from gradscope.restart.attempt import Attempt
from gradscope.restart.policy import DelayedRestart, NeverRestart, Policy, policy_for
from tests.helpers.attempts import attempt

POLICIES: dict[str, Callable[[], Policy]] = {
    "never": NeverRestart,
    "never, with a schedule": lambda: NeverRestart("ramp:5"),
    "delayed": DelayedRestart,
    "delayed, three times": lambda: DelayedRestart(max_restarts=3),
    "no restart left": lambda: DelayedRestart(max_restarts=0),
    "fixed": lambda: DelayedRestart(None, "delayed:5", 2),
    "steps, from checkpoints": lambda: DelayedRestart("delayed:2*taper:0.5", "delayed:200steps", 2, "checkpoint"),
}


attempts = st.builds(
    attempt,
    st.sampled_from([str(v) for v in Verdict]),
    st.sampled_from([None, "delayed:auto", "delayed:5", "delayed:auto*taper:0.5"]),
    st.sampled_from([None, 20, 200]),
    st.sampled_from([None, 0, 100]),
)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=60, deadline=None)
@given(told=st.lists(attempts, min_size=5, max_size=5))
def test_every_policy(name: str, told: list[Attempt]) -> None:
    policy, twin = POLICIES[name](), POLICIES[name]()
    assert policy.text == twin.text
    assert (first := policy.ask()).start
    assert not first.from_checkpoint
    for number, one in enumerate(told):
        policy.tell(one)
        decision = policy.ask()
        assert decision == policy.ask(), "asking changes nothing"
        assert decision.reason
        again = POLICIES[name]()
        for earlier in told[: number + 1]:
            again.tell(earlier)
        assert again.ask() == decision, "told again of the same history, it answers the same"
        if not one.diagnosis.failed:
            assert not decision.start, "a run that did not fail is never restarted"
        if not decision.start:
            return
        assert decision.schedule is not None
        parse_schedule(decision.schedule)
        assert not decision.from_checkpoint or policy.from_checkpoints
    raise AssertionError("four restarts were not enough")


def after(policy: Policy, *told: Attempt) -> str:
    """What the policy says after these attempts: the schedule of the next one, or why there is none."""
    for one in told:
        policy.tell(one)
    decision = policy.ask()
    return str(decision.schedule) if decision.start else f"no: {decision.reason}"


@pytest.mark.parametrize("active", [None, 20])
def test_a_collapse_is_restarted_with_a_delay(active: int | None) -> None:
    assert after(DelayedRestart(), attempt("collapsed", active=active)) == "delayed:auto"
    assert after(DelayedRestart(), attempt("stalled")) == "delayed:auto"
    assert after(DelayedRestart(None, "delayed:7"), attempt("collapsed")) == "delayed:7"


def test_the_next_attempt_is_told_apart_from_the_last() -> None:
    """What failed is not read as the outcome of the attempt that begins."""
    policy = DelayedRestart()
    policy.tell(attempt("collapsed"))
    assert policy.ask().reason.startswith("again with delayed:auto (the last attempt: collapsed")


@pytest.mark.parametrize("verdict", ["diverged", "vanishing"])
def test_what_a_delay_cannot_help(verdict: str) -> None:
    assert after(DelayedRestart(), attempt(verdict)) == f"no: {verdict}: a remedy"


def test_it_abstains_beyond_the_delayed_tolerance() -> None:
    policy = DelayedRestart(max_restarts=9)
    failed = attempt("collapsed"), attempt("collapsed", "delayed:auto", active=40, switched_on=64)
    assert "beyond what a delay can save" in after(policy, *failed)
    asked_for = DelayedRestart("delayed:auto", max_restarts=9)
    assert "came on at step 64" in after(asked_for, failed[1])


def test_it_abstains_without_a_penalty() -> None:
    assert "no penalty acted" in after(DelayedRestart(), attempt("stalled", switched_on=None))
    never_on = attempt("stalled", "delayed:auto", switched_on=None)
    assert "without its penalty either" in after(DelayedRestart(max_restarts=9), attempt("collapsed"), never_on)


def test_a_fixed_delay_is_followed_by_the_automatic_one() -> None:
    failed = attempt("collapsed"), attempt("collapsed", "delayed:2", active=None, switched_on=46)
    assert "no restart is left" in after(DelayedRestart(None, "delayed:2"), *failed)
    assert after(DelayedRestart(None, "delayed:2", 2), *failed) == "delayed:auto"


def test_other_factors_of_the_schedule_are_kept() -> None:
    assert after(DelayedRestart("taper:sch01"), attempt("collapsed", "taper:sch01")) == "delayed:auto*taper:sch01"
    assert after(DelayedRestart("delayed:3*taper:0.5"), attempt("collapsed")) == "delayed:auto*taper:0.5"


def test_what_did_not_fail() -> None:
    assert after(DelayedRestart(), attempt("healthy")) == "no: the run learns"
    assert after(NeverRestart(), attempt("undecided")) == "no: the record shows no outcome: seen"
    assert after(NeverRestart(), attempt("collapsed")) == "no: the run failed, and restarts are off"


def test_mistakes() -> None:
    for restart, start_from, most, said in (
        ("please", "start", 1, "restart is 'please'"),
        ("delayed", "middle", 1, "a restart from 'middle'; expected one of start, checkpoint"),
        ("delayed", "start", -1, "max_restarts is -1"),
    ):
        with pytest.raises(InputError, match=said):
            policy_for(None, restart, most, start_from)
    with pytest.raises(InputError, match=r"--schedule autol2 cannot be restarted: --restart none"):
        policy_for("autol2")
    assert isinstance(policy_for("autol2", "none"), NeverRestart)


def test_texts_differ_where_the_decisions_do() -> None:
    made = [policy().text for name, policy in POLICIES.items() if "three" not in name and "left" not in name]
    assert all(a != b for a, b in itertools.combinations(made, 2))
