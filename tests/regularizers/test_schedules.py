"""Schedules: their values, their text form, their state; and the command that draws them."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from gradscope_cli.main import run
from hypothesis import given
from hypothesis import strategies as st

from gradscope import (
    CPR,
    AdvanceL2,
    AutoL2,
    Constant,
    Cyclic,
    Delayed,
    InputError,
    Ivanov,
    Ramp,
    Schedule,
    StrongFirst,
    Table,
    Taper,
    parse_schedule,
)
from gradscope.regularizers.curve import curve
from gradscope.regularizers.schedules import EXAMPLES


@pytest.mark.parametrize("text", EXAMPLES)
def test_schedule_texts_are_read_back(text: str) -> None:
    assert parse_schedule(parse_schedule(text, 0.5).text, 0.5).text == text


def test_delay_leaves_the_first_n_steps_without_penalty() -> None:
    schedule = Delayed(0.1, steps=3)
    assert [schedule.at(step) for step in range(5)] == [0, 0, 0, 0.1, 0.1]
    by_epoch = Delayed(0.1, epochs=2)
    assert [by_epoch.at(0, epoch) for epoch in range(4)] == [0, 0, 0.1, 0.1]


def test_auto_delay_waits_and_resumes() -> None:
    schedule = Delayed(0.1, "auto")
    assert schedule.at(10**6) == 0
    schedule.active_phase(50)
    schedule.active_phase(80)
    resumed = Delayed(0.1, "auto")
    resumed.load_state_dict(schedule.state_dict())
    assert [s.at(step) for s in (schedule, resumed) for step in (49, 50)] == [0, 0.1, 0, 0.1]


def test_ramp_is_a_straight_line() -> None:
    values = [Ramp(1.0, steps=4).at(step) for step in range(6)]
    assert values == [0, 0.25, 0.5, 0.75, 1, 1]
    assert all(b >= a for a, b in pairwise(values))


@pytest.mark.parametrize(
    "text",
    ["delay:5", "delayed", "delayed:-5", "delayed:2.5steps", "constant:3", "constant:", "taper", "cpr:inflect", ""],
)
def test_unknown_schedule_lists_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"expected one such as constant, delayed:5|whole number"):
        parse_schedule(text)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf"), "strong"])
def test_strength_is_finite_and_not_negative(strength: float) -> None:
    with pytest.raises(InputError, match="strength is"):
        Constant(strength)


@pytest.mark.parametrize("wrong", [{}, {"epochs": 1, "steps": 1}, {"epochs": -1}])
def test_delay_takes_one_length(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"either epochs or steps|expected at least 0"):
        Delayed(0.1, **wrong)


def test_strong_first_falls_to_zero() -> None:
    assert [StrongFirst(2.0, steps=4).at(step) for step in range(6)] == [2, 1.5, 1, 0.5, 0, 0]
    assert StrongFirst(2.0, epochs=0).at(0, 0) == 0


def test_cycles_restart_at_zero_and_grow_longer() -> None:
    """The mirror image of SGDR: cycles of 2, 4, 8 … epochs."""
    values = [Cyclic(1.0, epochs=2, times=2).at(0, epoch) for epoch in range(14)]
    assert [epoch for epoch, value in enumerate(values) if value == 0] == [0, 2, 6]
    assert values[1] == pytest.approx(0.5)
    assert values[4] == pytest.approx(0.5)
    plain = Cyclic(1.0, steps=4)
    assert [plain.at(s) for s in range(4)] == [plain.at(s + 4 * 10**6) for s in range(4)]


def test_a_table_holds_from_each_row_on() -> None:
    table = parse_schedule("table:0=1,100=8,150=16", 1e-4)
    assert [table.at(0, epoch) for epoch in (0, 99, 100, 149, 150, 999)] == [1e-4, 1e-4, 8e-4, 8e-4, 16e-4, 16e-4]
    by_steps = Table(0.5, steps={0: 0, 10: 2})
    assert [by_steps.at(step) for step in (0, 9, 10)] == [0, 0, 1]


#: Table 1 of "Adapting Regularization with Learning Rate": first epoch, learning rate, weight decay of both schemes.
TABLE_1 = [
    (1, 1e-1, 0.0001, 0.0001), (51, 1e-2, 0.0001, 0.0001), (101, 1e-3, 0.0008, 0.0004),
    (151, 1e-4, 0.0016, 0.0008), (201, 1e-5, 0.0016, 0.0008),
    (251, 1e-1, 0.0001, 0.0001), (271, 1e-2, 0.0001, 0.0001), (291, 1e-3, 0.0008, 0.0004),
    (311, 1e-4, 0.0016, 0.0008), (331, 1e-5, 0.0016, 0.0008),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "column"), [("sch01", 2), ("sch02", 3)])
def test_tapers_are_those_of_table_1(scheme: str, column: int) -> None:
    taper = parse_schedule(f"taper:{scheme}", 0.0001)
    for row in TABLE_1:
        assert taper.at(learning_rate=row[1], highest_rate=1e-1) == row[column]


def test_between_the_decades_a_taper_rises_steadily() -> None:
    taper = Taper(1.0, "sch01")
    rates = [10 ** (-i / 10) for i in range(60)]
    values = [taper.at(learning_rate=rate, highest_rate=1.0) for rate in rates]
    assert all(b >= a for a, b in pairwise(values))
    assert taper.at(learning_rate=10**-1.5, highest_rate=1.0) == pytest.approx(8**0.5)
    assert taper.at(learning_rate=0.0, highest_rate=1.0) == 16


def test_the_general_taper_is_a_power_of_the_rate_up_to_a_limit() -> None:
    taper = Taper(0.1, 0.5)
    assert taper.at(learning_rate=0.01, highest_rate=1.0) == pytest.approx(1.0)
    assert taper.at(learning_rate=1e-9, highest_rate=1.0) == pytest.approx(1.6)
    assert taper.at(learning_rate=0.0, highest_rate=1.0) == pytest.approx(1.6)
    assert Taper(0.1, 0.0).at(learning_rate=0.0, highest_rate=1.0) == 0.1


def test_ivanov_acts_above_its_bound_only() -> None:
    ivanov = Ivanov(0.3, 10.0)
    assert [ivanov.at(norms={"l1": norm}) for norm in (9.0, 10.0, 10.1)] == [0, 0, 0.3]
    assert Ivanov(0.3, 10.0, "l2").needs_norm == "l2"


def test_a_product_multiplies_factors_and_keeps_states() -> None:
    product = parse_schedule("delayed:auto*taper:sch02", 0.1)
    assert (product.needs_record, product.needs_rate, product.waiting) == (True, True, True)
    assert product.at(5, learning_rate=1e-3, highest_rate=0.1) == 0
    product.active_phase(4)
    resumed = parse_schedule("delayed:auto*taper:sch02", 0.1)
    resumed.load_state_dict(product.state_dict())
    assert product.at(5, learning_rate=1e-3, highest_rate=0.1) == pytest.approx(0.4)
    assert resumed.at(5, learning_rate=1e-3, highest_rate=0.1) == pytest.approx(0.4)


NUMBERS = st.floats(0, 1e12, allow_nan=False)
ABOVE = st.floats(1e-6, 1e9)
STEPS = st.integers(0, 10**9)
ROWS = st.dictionaries(st.integers(1, 10**6), NUMBERS, max_size=4).map(
    lambda rows: {0: 0.5, **dict(sorted(rows.items()))}
)


def lengths(kind: type) -> st.SearchStrategy[Schedule]:
    return st.one_of(NUMBERS.map(lambda n: kind(1.0, epochs=n)), STEPS.map(lambda n: kind(1.0, steps=n)))


PLAIN = st.one_of(
    *(lengths(kind) for kind in (Delayed, Ramp, StrongFirst)),
    st.builds(lambda n, x: Cyclic(1.0, epochs=n, times=1 + x), ABOVE, NUMBERS),
    st.builds(lambda n: Cyclic(1.0, steps=n + 1), STEPS),
    ROWS.map(lambda rows: Table(1.0, epochs=rows)),
    ROWS.map(lambda rows: Table(1.0, steps=rows)),
    st.builds(lambda power, limit: Taper(1.0, power, 1 + limit), NUMBERS, NUMBERS),
    st.sampled_from([Constant(1.0), Delayed(1.0, "auto"), Taper(1.0, "sch01"), Taper(1.0, "sch02")]),
    st.builds(lambda bound, norm: Ivanov(1.0, bound, norm), NUMBERS, st.just("l1")),
)
FIRST = st.one_of(
    PLAIN,
    st.builds(
        lambda t, k, d: AutoL2(0.1, threshold=t, every=k, decay=d), NUMBERS, st.integers(1, 99), st.floats(0.01, 0.99)
    ),
    st.builds(lambda t, c: AdvanceL2(0.1, threshold=t, ceiling=1 + c, cooldown=10.0), NUMBERS, NUMBERS),
)


@given(FIRST, st.lists(PLAIN, max_size=2))
def test_every_text_is_read_back(first: Schedule, others: list[Schedule]) -> None:
    text = "*".join(part.text for part in (first, *others))
    assert parse_schedule(text).text == text


@given(PLAIN, STEPS, st.integers(0, 10**4), st.floats(1e-12, 1.0))
def test_every_factor_is_finite_and_not_negative(schedule: Schedule, step: int, epoch: int, rate: float) -> None:
    value = schedule.at(step, epoch, learning_rate=rate, highest_rate=1.0, norms={"l1": 5.0})
    assert math.isfinite(value)
    assert value >= 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cyclic:0", "lasts 0; expected a length above 0"),
        ("cyclic:5x0.5", "expected a finite number of at least 1"),
        ("table:5=1", r"expected 0 first, then rising"),
        ("table:0=1,5=2,3=1", r"expected 0 first, then rising"),
        ("taper:0.5:0.5", "expected at least 1"),
        ("taper:sch03", "expected one such as"),
        ("constant*autol2", "sets a strength of its own"),
        ("cpr:10steps*constant", "sets a strength of its own"),
        ("ivanov:1*ivanov:1:l2", "different norms"),
        ("autol2:ceiling=3", "expected one such as"),
        ("autol2:decay=2", "between 0 and 1"),
        ("delayed:2.5steps", "whole number"),
        ("cpr:0steps", "at least 1"),
    ],
)
def test_bad_texts_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_schedule(text)


def test_a_table_takes_epochs_or_steps() -> None:
    with pytest.raises(InputError, match="either epochs= or steps="):
        Table(0.1)
    with pytest.raises(InputError, match="a factor of the table is -1"):
        Table(0.1, steps={0: -1})


def test_a_controller_cannot_start_at_zero() -> None:
    with pytest.raises(InputError, match="cannot start at 0"):
        AutoL2(0.0)
    with pytest.raises(InputError, match="below the strength"):
        AdvanceL2(0.1, ceiling=0.01)
    assert CPR().text == "cpr:inflection"


# -- drawn ----------------------------------------------------------------------------------------


def test_a_curve_is_what_the_schedule_says() -> None:
    found = curve(parse_schedule("ramp:100steps", 0.5), 101, points=101)
    assert found.axis == "step"
    assert found.strength == [0.5 * step / 100 for step in range(101)]
    by_rate = curve(parse_schedule("taper:sch01"), 1000)
    assert (by_rate.at[0], by_rate.strength[0], by_rate.strength[-1]) == (1.0, 1.0, 16.0)
    held = curve(parse_schedule("delayed:5steps*ivanov:300"), 1000)
    assert held.at[0] == 600
    assert [value for value in held.strength if value] == [1.0] * 29
    automatic = curve(parse_schedule("delayed:auto", 0.1), 400)
    assert "step 100" in automatic.note


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_command_draws_every_schedule_or_says_why_not(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["schedule", text, "--strength", "0.01", "--steps", "4000", "--steps-per-epoch", "40"])
    out, err = capsys.readouterr()
    if parse_schedule(text).stands == "anywhere":
        assert code == 0
        assert f"{text}, l2, weight_decay 0.02 (λ 0.01)" in out
        assert "█" in out
        assert max(len(line) for line in out.splitlines()[1:]) < 80
    else:
        assert code == 2
        assert "no curve to draw" in err


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schedule", "delayed:3steps", "--strength", "0.5", "--steps", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strengths"] == [0, 0, 0, 0.5, 0.5]
    assert found["weight_decay"] == 1.0
    assert run(["schedule", "constant", "--penalty", "l1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weight_decay"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["delay:5"], "schedule is 'delay:5'; expected one such as constant"),
        (["delayed:5"], "counts epochs; give --steps-per-epoch"),
        (["constant", "--strength", "-1"], "strength is -1"),
        (["constant", "--steps", "0"], "steps is 0"),
        (["constant", "--penalty", "ridge"], "penalty is 'ridge'"),
    ],
)
def test_the_command_names_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schedule", *arguments]) == 2
    assert message in capsys.readouterr().err
