"""The four algorithms of Auto L2 and CPR, against traces worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradscope import CPR, L1, L2, InputError, parse_schedule, regularize
from gradscope.regularizers.controllers import ControlRule, State, decide
from gradscope.regularizers.cpr import Bounds, constrain
from tests.helpers.loops import mlp

Rows = list[tuple[int, float, float, float]]

# Each row: step, loss, error, and λ after the measurement. k = 5, decay_factor 0.1, λ₀ = 0.1, error constant unless
# it matters. Worked out with pencil and paper from the pseudocode; the comments give the reason.
AUTO_L2: Rows = [
    (0, 2.0, 0.9, 0.1),  # sets MINLOSS = 2, MINERROR = .9
    (5, 1.0, 0.9, 0.1),  # below the minimum; MINLOSS = min(LOSS_0, 2) = 2
    (10, 1.5, 0.9, 0.1),  # 1.5 < 2; MINLOSS = min(LOSS_5, 2) = 1
    (15, 1.5, 0.9, 0.01),  # 1.5 > 1 and 1.5 > 1: λ = .01, MIN_STEP = .1/.01 + 15 = 25; MINLOSS stays 1
    (20, 1.5, 0.9, 0.01),  # would decrease, but 20 ≤ 25; MINLOSS = min(1.5, 1) = 1
    (25, 1.5, 0.9, 0.01),  # 25 > 25 is false
    (30, 1.5, 0.9, 0.001),  # λ = .001, MIN_STEP = .1/.001 + 30 = 130
    (125, 9.0, 0.9, 0.001),  # cooling down
    (130, 9.0, 0.9, 0.001),  # 130 > 130 is false
    (135, 0.5, 0.9, 0.001),  # LOSS_t is not above the minimum
    (140, 2.0, 0.9, 0.001),  # LOSS_{t−k} = .5 is not above MINLOSS = 1; then MINLOSS = .5
    (145, 0.6, 0.9, 1e-4),  # .6 > .5 and 2 > .5
]
BY_ERROR: Rows = [
    (0, 2.0, 0.9, 0.1),
    (5, 1.0, 0.5, 0.1),
    (10, 0.9, 0.6, 0.1),  # MINERROR = min(ERROR_5, .9) = .5
    (15, 0.8, 0.6, 0.01),  # the loss falls, but .6 > .5 and .6 > .5
]
THRESHOLD_5: Rows = [  # method 1 with α = 5
    (0, 1.0, 0.5, 0.1),  # MINLOSS = 1
    (5, 1.04, 0.5, 0.1),
    (10, 1.04, 0.5, 0.1),  # 1.04 < 1.05
    (15, 1.06, 0.5, 0.1),  # 1.06 > 1.05, but LOSS_10 = 1.04 is not
    (20, 1.06, 0.5, 0.01),  # both above 1.05
]
ADVANCE_L2: Rows = [  # method 2
    (0, 2.0, 0.9, 0.1),  # literally: compared with ∞; here: initialises
    (5, 1.9, 0.9, 0.1),  # LOSS_0 = 2 is not below MINLOSS = 2
    (10, 1.8, 0.9, 1.0),  # 1.8 < 2 and 1.9 < 2: λ = 1, MIN_STEP = .1/1 + 10 = 10.1; MINLOSS stays 2
    (15, 2.5, 0.9, 1.0),  # neither; MINLOSS = min(LOSS_10, 2) = 1.8
    (20, 2.6, 0.9, 0.1),  # 2.6 > 1.8 and 2.5 > 1.8: λ = .1, MIN_STEP = 21
    (25, 2.6, 0.9, 0.01),  # λ = .01, MIN_STEP = .1/.01 + 25 = 35
    (30, 1.5, 0.9, 0.01),  # cooling down; MINLOSS = min(LOSS_25, 1.8) = 1.8
    (35, 1.5, 0.9, 0.01),  # 35 > 35 is false; MINLOSS = min(LOSS_30, 1.8) = 1.5
    (40, 1.4, 0.9, 0.01),  # LOSS_35 = 1.5 is not below 1.5
    (45, 1.3, 0.9, 0.1),  # 1.3 < 1.5 and 1.4 < 1.5 (at 40 MINLOSS = min(1.5, 1.5) stayed)
]
COMBINED_10: Rows = [  # method 3 with α = 10
    (0, 2.0, 0.9, 0.1),
    (5, 1.85, 0.9, 0.1),
    (10, 1.85, 0.9, 0.1),  # 1.85·1.1 = 2.035 > 2: not low enough; MINLOSS = 1.85
    (15, 1.6, 0.9, 0.1),  # 1.76 < 1.85, but LOSS_10·1.1 = 2.035 is not
    (20, 1.6, 0.9, 1.0),  # both 1.76 < 1.85 (MINLOSS = min(LOSS_10, 1.85)): λ = 1, MIN_STEP = 20.1
    (25, 2.0, 0.9, 1.0),  # 2 < 1.85·1.1 = 2.035; then MINLOSS = min(1.6, 1.85) = 1.6
    (30, 1.8, 0.9, 0.1),  # 1.8 > 1.76 and LOSS_25 = 2 > 1.76
]


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        (ControlRule(), AUTO_L2),
        (ControlRule(), BY_ERROR),
        (ControlRule(threshold=5), THRESHOLD_5),
        (ControlRule(increase=True), ADVANCE_L2),
        (ControlRule(threshold=10, increase=True), COMBINED_10),
    ],
    ids=["algorithm 1", "algorithm 1 by error", "algorithm 2", "algorithm 3", "algorithm 4"],
)
def test_traces_worked_out_by_hand(rule: ControlRule, rows: Rows) -> None:
    state = State(0.1)
    for step, loss, error, expected in rows:
        state = decide(rule, state, step, loss, error)
        assert state.strength == pytest.approx(expected), f"at step {step}"


def test_the_two_cooldowns_differ_by_100() -> None:
    """decay_factor/λ_new with decay_factor 0.1 (pseudocode) and 10 (text)."""
    for cooldown, expected in ((0.1, 15 + 10), (10.0, 15 + 1000)):
        state = State(0.1)
        for step, loss, *_ in AUTO_L2[:4]:
            state = decide(ControlRule(cooldown=cooldown), state, step, loss)
        assert state.min_step == pytest.approx(expected)


def test_the_first_measurement_decides_nothing() -> None:
    """Read literally, algorithm 3 finds every loss below an infinite minimum, and never updates it."""
    state = decide(ControlRule(increase=True), State(0.1), 0, 5.0, 0.9)
    assert state.strength == 0.1
    assert (state.min_loss, state.min_error) == (5.0, 0.9)


def test_without_an_error_the_loss_decides_and_a_late_error_starts_afresh() -> None:
    state = State(0.1)
    for step, loss in ((0, 2.0), (5, 3.0), (10, 3.0)):
        state = decide(ControlRule(), state, step, loss)
    assert state.strength == pytest.approx(0.01)
    later = decide(ControlRule(increase=True), decide(ControlRule(increase=True), State(0.1), 0, 1.0), 5, 1.0, 0.5)
    later = decide(ControlRule(increase=True), later, 10, 1.0, 0.4)
    assert later.strength == 0.1
    assert later.min_error == 0.5


def test_a_loss_that_is_not_finite_counts_as_a_rise() -> None:
    state = State(0.1)
    for step, loss in ((0, 2.0), (5, math.nan), (10, math.inf)):
        state = decide(ControlRule(), state, step, loss)
    assert state.strength == pytest.approx(0.01)


def test_the_ceiling_holds_and_the_strength_never_leaves_the_floats() -> None:
    held, free = State(0.1), State(1e307)
    for step in range(0, 100, 5):
        held = decide(ControlRule(increase=True, ceiling=3.0), held, step, 5.0 - step / 100)
        free = decide(ControlRule(increase=True), free, step, 5.0 - step / 100)
    assert held.strength == 3.0
    assert math.isfinite(free.strength)


def test_at_the_ceiling_the_minima_follow_so_that_a_crushed_net_is_noticed() -> None:
    """Crushed from 1.5 to 2.3, the loss stays below the 2.6 of the start: against that it would never rise."""
    state = State(0.1)
    trace = []
    for step, loss in enumerate((2.6, 2.4, 2.2, 2.0, 1.8, 1.6, 1.5, 2.3, 2.3, 2.3, 2.3)):
        state = decide(ControlRule(increase=True, ceiling=10.0), state, 5 * step, loss)
        trace.append(round(state.strength, 6))
    assert max(trace) == 10
    assert state.min_loss == 1.5
    assert state.strength < 10


# -- CPR ------------------------------------------------------------------------------------------


def test_cpr_warm_start_worked_out_by_hand() -> None:
    """κ is ‖w‖² after the second step; then λ grows by μ/n a unit above it and shrinks below it, never below 0."""
    rule, numel = CPR(2.0, warm_start=2), torch.tensor([4.0])
    state = Bounds.of(1, torch.device("cpu"))
    multipliers = []
    for step, square in enumerate([9.0, 10.0, 12.0, 13.0, 8.0, 4.0], 1):
        state = constrain(rule, state, step, torch.tensor([square]), numel)
        multipliers.append(state.multiplier.item())
    assert state.bound.item() == 10.0
    # 2/4 · (12 − 10) = 1; + 2/4 · 3 = 2.5; + 2/4 · (−2) = 1.5; + 2/4 · (−6) = −1.5 → 0
    assert multipliers == [0, 0, 1.0, 2.5, 1.5, 0]


def test_cpr_finds_the_inflection_point_of_each_tensor() -> None:
    """A norm that grows along a logistic curve has its inflection point in the middle; a still one has none."""
    rule, numel = CPR(every=10, smooth=0.5), torch.tensor([10.0, 10.0])
    state = Bounds.of(2, torch.device("cpu"))
    found = []
    for step in range(1, 201):
        norm = 1 + 9 / (1 + math.exp(-(step - 100) / 10))
        state = constrain(rule, state, step, torch.tensor([norm**2, 4.0]), numel)
        if torch.isfinite(state.bound[0]) and not found:
            found.append(step)
    # The relative growth has its maximum a little before the growth itself.
    assert 80 <= found[0] <= 110
    assert not torch.isfinite(state.bound[1])


def test_cpr_holds_each_tensor_at_its_bound() -> None:
    torch.manual_seed(1)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    handle = regularize(optimizer, L2(), CPR(warm_start=20))
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        x = torch.randn(32, 6, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long() + (x[:, 1] > 0)).backward()
        optimizer.step()
    squares = torch.stack([p.square().sum() for p in model.parameters() if p.ndim > 1])
    assert (squares <= 1.1 * handle.bounds.bound).all()  # type: ignore[union-attr]
    assert handle.now() > 0


def test_cpr_is_for_l2_and_not_a_factor() -> None:
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"the penalty has to be L2\(\); it is l1"):
        regularize(optimizer, L1(), CPR())
    assert parse_schedule("cpr:300steps").text == "cpr:300steps"
