"""Penalties against autograd and brute force; schedules; and how both reach an optimizer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from gradscope import L1, L1L2, L2, Constant, Delayed, InputError, LInf, Lp, Penalty, Ramp, regularize
from gradscope.regularizers.attach import attached_to
from gradscope.regularizers.penalties import parse_penalty
from gradscope.regularizers.schedules import EXAMPLES, parse_schedule
from tests.loops import mlp, train

PENALTIES = [L1(), L2(), L1L2(0.3, 0.7), Lp(3), Lp(1.5), Lp(1), LInf()]


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_gradient_is_that_of_autograd(penalty: Penalty) -> None:
    w = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(penalty.value(w), w)
    torch.testing.assert_close(penalty.gradient(w.detach()), expected)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_gradient_is_zero_at_zero(penalty: Penalty) -> None:
    assert not penalty.gradient(torch.zeros(4, 3, dtype=torch.float64)).any()
    assert penalty.gradient(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("penalty", [L1(), L2(), L1L2(0.3, 0.7)], ids=repr)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 2.0])
def test_proximal_map_minimises(penalty: Penalty, threshold: float) -> None:
    """Against a brute-force search over a fine grid, entry by entry."""
    grid = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    for w in (-2.0, -0.05, 0.0, 0.3, 1.7):
        values = threshold * torch.stack([penalty.value(u) for u in grid[::100]]) + 0.5 * (grid[::100] - w) ** 2
        rough = grid[::100][values.argmin()]
        found = penalty.proximal(torch.tensor([w], dtype=torch.float64), threshold)
        assert abs(found.item() - rough.item()) <= 0.0101


def test_ties_of_linf_share_equally() -> None:
    assert LInf().gradient(torch.tensor([2.0, -2.0, 1.0])).tolist() == [0.5, -0.5, 0.0]


def test_shares_predict_the_mean_gradient() -> None:
    w = torch.randn(50, dtype=torch.float64)
    w[:10] = 0
    for penalty in PENALTIES:
        if (shares := penalty.shares()) is not None:
            predicted = shares[0] * w.abs().mean() + shares[1] * (w != 0).double().mean()
            torch.testing.assert_close(penalty.gradient(w).abs().mean(), predicted)


@pytest.mark.parametrize(("word", "kind"), [("l1", L1), ("L2", L2), ("l1l2", L1L2), ("linf", LInf), ("l3", Lp)])
def test_penalties_have_words(word: str, kind: type[Penalty]) -> None:
    assert type(parse_penalty(word)) is kind


@pytest.mark.parametrize("word", ["ridge", "", "l0.5", "l"])
def test_unknown_penalty_lists_the_known(word: str) -> None:
    with pytest.raises(InputError, match=r"expected one of l1, l2, l1l2, linf"):
        parse_penalty(word)


@pytest.mark.parametrize("p", [0.5, float("nan"), float("inf")])
def test_lp_needs_p_of_at_least_one(p: float) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Lp(p)


# -- schedules ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("text", ["delay:5", "delayed", "delayed:-5", "delayed:2.5steps", "constant:3", ""])
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


# -- on an optimizer ------------------------------------------------------------------------------

OPTIMIZERS = [
    lambda p, wd: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=wd),
    lambda p, wd: torch.optim.SGD(p, lr=0.1, weight_decay=wd, foreach=True),
    lambda p, wd: torch.optim.Adam(p, lr=0.01, weight_decay=wd),
    lambda p, wd: torch.optim.SGD(p, lr=0.01, weight_decay=wd, maximize=True),
]


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def twin_models() -> tuple[nn.Module, nn.Module]:
    first = mlp()
    second = mlp()
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_l2_equals_the_optimizers_own_weight_decay_bit_for_bit(make) -> None:
    first, second = twin_models()
    own, ours = make(first.parameters(), 0.02), make(second.parameters(), 0.0)
    regularize(ours, L2(), Constant(0.01), select=lambda p: True)
    train(first, own, 10)
    train(second, ours, 10)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_grad_stays_the_pure_loss_gradient() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), Constant(10.0))
    kept = {}

    def keep(step: int) -> None:
        kept.update({p: p.grad.clone() for p in model.parameters() if p.grad is not None})

    train(model, optimizer, 1, each=keep)
    for p, grad in kept.items():
        assert p.grad is not None
        assert torch.equal(p.grad, grad)


def test_biases_are_left_alone_by_default() -> None:
    first, second = twin_models()
    plain, ours = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second))
    regularize(ours, L2(), Constant(0.5))
    train(first, plain, 1)
    train(second, ours, 1)
    for a, b in zip(weights(first), weights(second), strict=True):
        assert torch.equal(a, b) == (a.ndim == 1)


def test_l1_is_a_soft_threshold_of_lr_times_strength() -> None:
    """Not lr·λ/(1 − momentum): momentum does not amplify a proximal step."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regularize(optimizer, L1(), Constant(0.2))
    before = weights(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for old, new in zip(before, weights(model), strict=True):
        expected = old.sign() * (old.abs() - 0.02).clamp_min(0) if old.ndim > 1 else old
        torch.testing.assert_close(new, expected)
    assert any((w == 0).any() for w in weights(model))


def test_generic_penalty_through_the_gradient() -> None:
    first, second = twin_models()
    plain, ours = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second))
    regularize(ours, Lp(3), Constant(0.2))

    def inside(step: int) -> None:
        for p in first.parameters():
            if p.ndim > 1 and p.grad is not None:
                p.grad = p.grad + 0.2 * Lp(3).gradient(p.detach())

    train(first, plain, 5, each=inside)
    train(second, ours, 5)
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b)


def test_detach_leaves_the_optimizer_as_it_was() -> None:
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    handle = regularize(optimizer, L2(), Constant(0.5))
    handle.detach()
    assert not attached_to(optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_mistakes_are_named() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="chooses none"):
        regularize(optimizer, L2(), Constant(0.5), select=lambda p: False)
    with pytest.raises(InputError, match=r"schedule is 0.1; expected one such as gradscope.Constant"):
        regularize(optimizer, L2(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"penalty is 'l2'; expected a penalty"):
        regularize(optimizer, "l2", Constant(0.1))  # type: ignore[arg-type]
    regularize(optimizer, L2(), Delayed(0.5, epochs=2))
    with pytest.raises(InputError, match="counts epochs, and nothing says which"):
        train(model, optimizer, 1)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(other, L2(), Delayed(0.5, "auto"))
    with pytest.raises(InputError, match=r"needs gradscope.record"):
        train(model, other, 1)
    third = torch.optim.LBFGS(model.parameters())
    regularize(third, L2(), Constant(0.5))
    with pytest.raises(InputError, match=r"step\(closure\)"):
        third.step(lambda: torch.zeros(()))
