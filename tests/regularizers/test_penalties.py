"""Penalties against autograd and brute force; schedules; and how both reach an optimizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gradscope import L0, L1, L1L2, L2, Constant, Delayed, GroupLasso, InputError, LInf, Lp, Penalty, regularize
from gradscope.regularizers.groups import parse_penalty
from gradscope.regularizers.hooks import attached_to
from tests.helpers.loops import mlp, train
from tests.helpers.twins import twin_models, weights

PENALTIES = [
    *(L1(), L2(), L1L2(0.3, 0.7), Lp(3), Lp(1.5), Lp(1), LInf()),
    *(GroupLasso("filter"), GroupLasso("neuron"), GroupLasso("input")),
]
JOINT = [LInf(), GroupLasso("filter"), GroupLasso("input"), L1L2(0.3, 0.7), Lp(3)]
WITH_PROXIMAL_MAP = [p for p in PENALTIES if p != Lp(1.5)] + [L0(), Lp(2)]


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_gradient_is_that_of_autograd(penalty: Penalty) -> None:
    w = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(penalty.value(w), w)
    torch.testing.assert_close(penalty.gradient(w.detach()), expected)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_gradient_is_zero_at_zero(penalty: Penalty) -> None:
    assert not penalty.gradient(torch.zeros(4, 3, dtype=torch.float64)).any()
    assert penalty.gradient(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_several_tensors_at_once_as_one_by_one(penalty: Penalty) -> None:
    weights = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (2, 3, 2, 2), (5,), (0, 3))]
    weights[0][1] = 0
    gradients = [torch.randn_like(w) for w in weights]
    for w, one in zip(weights, penalty.gradients(weights), strict=True):
        torch.testing.assert_close(one, penalty.gradient(w))
    for w, g, one in zip(weights, gradients, penalty.add_to(gradients, weights, 0.3), strict=True):
        torch.testing.assert_close(one, g + 0.3 * penalty.gradient(w))
    if penalty in WITH_PROXIMAL_MAP:
        expected = [penalty.proximal(w, 0.2) for w in weights]
        penalty.shrink_(weights, 0.2)
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("penalty", WITH_PROXIMAL_MAP, ids=repr)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 2.0])
def test_proximal_map_minimises(penalty: Penalty, threshold: float) -> None:
    """Against a brute-force search over a fine grid, entry by entry."""
    grid = torch.arange(-300, 301, dtype=torch.float64) / 100
    for w in (-2.1, -0.05, 0.0, 0.3, 1.7):
        values = threshold * torch.stack([penalty.value(u[None]) for u in grid]) + 0.5 * (grid - w) ** 2
        rough = grid[values.argmin()]
        found = penalty.proximal(torch.tensor([w], dtype=torch.float64), threshold)
        assert abs(found.item() - rough.item()) <= 0.0101


@pytest.mark.parametrize(
    "penalty", [LInf(), GroupLasso("filter"), GroupLasso("input"), L1L2(0.3, 0.7), Lp(3)], ids=repr
)
def test_no_point_nearby_is_better_than_the_proximal_map(penalty: Penalty) -> None:
    """Penalties whose entries depend on each other, at random points around the claimed minimum."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    for threshold in (0.05, 0.4, 5.0):
        found = penalty.proximal(w, threshold)

        def objective(u: torch.Tensor, threshold: float = threshold) -> float:
            return (threshold * penalty.value(u) + 0.5 * ((u - w) ** 2).sum()).item()

        best = objective(found)
        for scale in (1e-4, 1e-2, 0.3):
            for _ in range(200):
                assert objective(found + scale * torch.randn(3, 4, dtype=torch.float64, generator=generator)) >= best


def test_group_lasso_zeroes_whole_groups() -> None:
    w = torch.tensor([[0.1, 0.1], [3.0, 4.0]])
    by_neuron = GroupLasso("neuron")
    assert by_neuron.value(w).item() == pytest.approx(2**0.5 * (0.02**0.5 + 5))
    assert by_neuron.proximal(w, 1.0)[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(by_neuron.proximal(w, 1.0)[1], torch.tensor([3.0, 4.0]) * (1 - 2**0.5 / 5))
    conv = torch.zeros(2, 3, 2, 2)
    conv[:, 1] = 1
    kept = GroupLasso("input").proximal(conv, 0.1).flatten(2).abs().sum((0, 2))
    assert (kept > 0).tolist() == [False, True, False]


def test_l0_counts_and_says_that_it_has_no_gradient() -> None:
    w = torch.tensor([0.0, -2.0, 1e-30])
    assert L0().value(w).item() == 2
    with pytest.raises(InputError, match="l0 counts weights and has no gradient"):
        L0().gradient(w)
    with pytest.raises(InputError, match="l0 counts weights and has no gradient"):
        regularize(torch.optim.SGD([nn.Parameter(torch.ones(2, 2))], lr=0.1), L0(), Constant(0.1))
    with pytest.raises(InputError, match="l0 counts weights and has no gradient"):
        parse_penalty("l0")


def test_a_penalty_without_a_proximal_map_says_so() -> None:
    with pytest.raises(InputError, match=r"l1.5 has no proximal map"):
        Lp(1.5).proximal(torch.ones(2), 0.1)


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


@pytest.mark.parametrize("penalty", [p for p in PENALTIES if p != Lp(1)], ids=repr)
def test_penalties_are_read_back(penalty: Penalty) -> None:
    assert parse_penalty(penalty.name) == penalty


@pytest.mark.parametrize("word", ["ridge", "", "l0.5", "l", "group", "group:column", "l1l2:1"])
def test_unknown_penalty_lists_the_known(word: str) -> None:
    with pytest.raises(InputError, match=r"expected one of l1, l2, l1l2, linf"):
        parse_penalty(word)


@pytest.mark.parametrize("p", [0.5, float("nan"), float("inf")])
def test_lp_needs_p_of_at_least_one(p: float) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Lp(p)


# -- on an optimizer ------------------------------------------------------------------------------

OPTIMIZERS = [
    lambda p, wd: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=wd),
    lambda p, wd: torch.optim.SGD(p, lr=0.1, weight_decay=wd, foreach=True),
    lambda p, wd: torch.optim.Adam(p, lr=0.01, weight_decay=wd),
    lambda p, wd: torch.optim.SGD(p, lr=0.01, weight_decay=wd, maximize=True),
]


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


@pytest.mark.parametrize("number", [0.25, 1, np.float32(0.5)])
def test_a_number_is_a_constant_strength(number: float) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = regularize(optimizer, L2(), number)
    assert handle.now() == float(number)
    assert handle.schedule.text == "constant"
    assert f"weight_decay {2 * float(number):g} (λ {float(number):g})" in repr(handle)


def test_mistakes_are_named() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="chooses none"):
        regularize(optimizer, L2(), Constant(0.5), select=lambda p: False)
    with pytest.raises(InputError, match=r"schedule is '0.1'; expected a strength such as 0.01, or a schedule such as"):
        regularize(optimizer, L2(), "0.1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"schedule is True; expected a strength"):
        regularize(optimizer, L2(), True)
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
    with pytest.raises(InputError, match=r"curvature that LBFGS remembers"):
        regularize(third, L1(), Constant(0.5))
