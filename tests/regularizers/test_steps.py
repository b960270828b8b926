"""A penalty at the steps of every kind of optimizer: closures, proximal steps, groups, selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradscope
from gradscope import (
    L1,
    L1L2,
    L2,
    Constant,
    Delayed,
    GroupLasso,
    InputError,
    Lp,
    Penalty,
    parse_schedule,
    regularize,
    regularize_activity,
)
from tests.helpers.loops import batches, mlp, train
from tests.helpers.twins import same, twin_models, weights

# -- closures -------------------------------------------------------------------------------------


def train_with_closure(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, penalty: Any = None) -> None:
    for x, y in batches(steps):

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            if penalty is not None:
                loss = loss + penalty(model)
            loss.backward()
            return loss

        optimizer.step(closure)


@pytest.mark.parametrize("penalty", [L2(), L1(), Lp(3)], ids=repr)
def test_a_step_with_a_closure_is_the_same_step(penalty: Penalty) -> None:
    """Lightning calls every optimizer so."""
    first, second = twin_models()
    plain, closed = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (first, second))
    for optimizer in (plain, closed):
        regularize(optimizer, penalty, Delayed(0.1, steps=3))
    train(first, plain, 6)
    train_with_closure(second, closed, 6)
    assert same(first, second)


def test_a_closure_handed_over_by_position_works_and_returns_the_data_loss() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    regularize(optimizer, L2(), Constant(5.0), decoupled=True)
    loss = torch.ones(())
    assert optimizer.step(lambda: loss) is loss


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_sees_values_and_gradients_of_one_function(line_search: str | None) -> None:
    first, second = (m.double() for m in twin_models())
    options: dict[str, Any] = {"lr": 0.5, "max_iter": 4, "line_search_fn": line_search}
    inside, ours = torch.optim.LBFGS(first.parameters(), **options), torch.optim.LBFGS(second.parameters(), **options)
    regularize(ours, L2(), Constant(0.05))

    def penalty(model: nn.Module) -> torch.Tensor:
        return 0.05 * torch.stack([(p * p).sum() for p in model.parameters() if p.ndim > 1]).sum()

    torch.set_default_dtype(torch.float64)
    try:
        train_with_closure(first, inside, 3, penalty)
        train_with_closure(second, ours, 3)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_after_a_closure_the_gradient_is_pure() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), Constant(100.0))
    seen = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().mean()
        loss.backward()
        seen[:] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return loss

    optimizer.step(closure)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), seen, strict=True) if p.grad is not None)


# -- proximal steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax])
@pytest.mark.parametrize("penalty", [L1(), L1L2(0.5, 0.2), GroupLasso("neuron")], ids=repr)
def test_the_proximal_step_is_euclidean_with_the_rate_of_each_group(kind: Any, penalty: Penalty) -> None:
    """The plain step, then the proximal map with threshold lr·λ: also where the optimizer has a metric of its own."""
    first, second = twin_models()

    def made(model: nn.Module) -> torch.optim.Optimizer:
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        groups = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2:].parameters(), "lr": 0.005}]
        return kind(groups, weight_decay=0.0, **options)

    plain, ours = made(first), made(second)
    regularize(ours, penalty, Constant(2.0))
    for x, y in batches(12):
        for model, optimizer in ((first, plain), (second, ours)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for group in plain.param_groups:
                for p in group["params"]:
                    if p.ndim > 1:
                        p.copy_(penalty.proximal(p, group["lr"] * 2.0))
        assert same(first, second)
    assert any((w == 0).any() for w in weights(second))


def test_where_adam_with_l1_comes_to_rest() -> None:
    """On a quadratic, SGD ends at the lasso solution; Adam, whose steps have no scale, at another point.

    The Euclidean map therefore means another λ under Adam: docs/decisions/0006.
    """
    curvature, target, strength = torch.tensor([1.0, 100.0]), torch.tensor([1.0, 1.0]), 0.5
    ends = {}
    for kind in (torch.optim.SGD, torch.optim.Adam):
        w = nn.Parameter(torch.zeros(1, 2))
        optimizer = kind([w], lr=0.005)
        regularize(optimizer, L1(), Constant(strength))
        for _ in range(4000):
            optimizer.zero_grad()
            (0.5 * curvature * (w - target) ** 2).sum().backward()
            optimizer.step()
        ends[kind] = w.detach()[0]
    torch.testing.assert_close(ends[torch.optim.SGD], target - strength / curvature, atol=1e-3, rtol=0)
    assert (ends[torch.optim.Adam] - (target - strength / curvature)).abs().max() > 0.1


# -- groups, accumulation, selection --------------------------------------------------------------


def test_a_taper_follows_the_rate_of_each_group() -> None:
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2:].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    handle = regularize(optimizer, L2(), parse_schedule("taper:sch01", 1e-4))
    train(model, optimizer, 1)
    optimizer.param_groups[1]["lr"] = 0.001
    train(model, optimizer, 1)
    assert [handle.now(group) for group in (0, 1)] == [1e-4, 8e-4]
    optimizer.param_groups[1]["lr"] = 1.0  # a restart above all rates so far
    assert handle.now(1) == 1e-4


def test_ivanov_acts_until_the_norm_is_below_its_bound() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    start = sum(w.abs().sum().item() for w in weights(model) if w.ndim > 1)
    handle = regularize(optimizer, L2(), parse_schedule(f"ivanov:{0.8 * start}", 0.1))
    acted = []
    train(model, optimizer, 200, each=lambda step: acted.append(handle.now() > 0))
    assert acted[0]
    assert not all(acted)
    assert sum(w.abs().sum().item() for w in weights(model) if w.ndim > 1) <= 0.8 * start


def test_accumulation_gets_the_penalty_once() -> None:
    first, second = (m.double() for m in twin_models())
    whole, halves = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second))
    for model, optimizer in ((first, whole), (second, halves)):
        regularize(optimizer, Lp(3), Constant(0.2))
        regularize_activity(optimizer, model, L2(), Constant(0.1), nn.ReLU)
    for x, y in batches(3, size=6):
        x = x.double()
        for model, optimizer, parts in ((first, whole, 1), (second, halves, 2)):
            optimizer.zero_grad()
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(a), b) / parts).backward()
            optimizer.step()
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("named", ["model", "optimizer"])
def test_parameters_are_selected_by_name(named: str) -> None:
    model = mlp()
    parameters = model.named_parameters() if named == "optimizer" else model.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    handle = regularize(optimizer, L2(), Constant(0.1), r"^2\.", model=model if named == "model" else None)
    assert handle.parameters == {id(p) for p in model[2].parameters()}


def test_parameters_are_selected_by_type_and_each_gets_its_own_strength() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for kind, strength in ((nn.Conv2d, 0.1), (nn.Linear, 0.4)):
        regularize(optimizer, L2(), Constant(strength), kind, model=model)
    regularize(optimizer, L1(), Constant(0.2), r"bias", model=model)
    before = weights(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    expected = [
        before[0] * (1 - 0.1 * 0.2), L1().proximal(before[1], 0.02),
        before[2] * (1 - 0.1 * 0.8), L1().proximal(before[3], 0.02),
    ]  # fmt: skip
    torch.testing.assert_close(weights(model), expected)


@pytest.mark.parametrize(
    ("select", "message"),
    [("weight", "the optimizer knows none: give model="), ("(", "regular expression"), (nn.Linear, "give model=")],
)
def test_names_need_somebody_who_knows_them(select: Any, message: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=message):
        regularize(optimizer, L2(), Constant(0.1), select, model=model if select == "(" else None)


def test_no_parameter_gets_one_penalty_twice() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.02)
    for penalty in (L2(), L1L2()):
        with pytest.raises(InputError, match=r"would act twice on 3 parameters: the optimizer's weight_decay is 0.02"):
            regularize(optimizer, penalty, Constant(0.1))
    first = regularize(optimizer, L1(), Constant(0.1))
    with pytest.raises(InputError, match=r"l1l2 would act twice|l1 would act twice on 3 parameters: <l1 of λ"):
        regularize(optimizer, L1(), Constant(0.2))
    optimizer.param_groups[0]["weight_decay"] = 0.0
    regularize(optimizer, L2(), Constant(0.1))  # another penalty beside L1 is all right
    first.detach()
    regularize(optimizer, L1(), Constant(0.2))
    regularize(optimizer, L1(), Constant(0.2), select=lambda p: p.ndim == 1)
    optimizer.param_groups[0]["weight_decay"] = 0.5  # set later: noticed at the step
    with pytest.raises(InputError, match=r"l2 would act twice on 3 parameters: the optimizer's weight_decay is 0.5"):
        train(model, optimizer, 1)


def test_sparse_gradients_are_refused_clearly() -> None:
    table = nn.Embedding(4, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    regularize(optimizer, Lp(3), Constant(0.1))
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="cannot be added to sparse gradients"):
        optimizer.step()


def test_decoupled_is_the_decay_of_adamw_bit_for_bit() -> None:
    first, second = twin_models()
    own = torch.optim.AdamW(first.parameters(), lr=0.01, weight_decay=0.2)
    ours = torch.optim.AdamW(second.parameters(), lr=0.01, weight_decay=0.0)
    regularize(ours, L2(), Constant(0.1), select=lambda p: True, decoupled=True)
    train(first, own, 10)
    train(second, ours, 10)
    assert same(first, second)
    with pytest.raises(InputError, match="decoupled is for L2 alone"):
        regularize(ours, L1(), Constant(0.1), decoupled=True)


OWN = {
    "sgd": lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True),
    "sgd foreach": lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, foreach=True),
    "sgd fused": lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, fused=True),
    "adam fused": lambda g: torch.optim.Adam(g, lr=0.01, fused=True),
    "adam maximize": lambda g: torch.optim.Adam(g, lr=0.01, maximize=True),
    "adamax": lambda g: torch.optim.Adamax(g, lr=0.01),
    "adamax foreach": lambda g: torch.optim.Adamax(g, lr=0.01, foreach=True),
    "rmsprop": lambda g: torch.optim.RMSprop(g, lr=0.01),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("groups", ["weights in a group of their own", "one group"])
def test_l2_agrees_with_weight_decay_in_every_optimizer(name: str, groups: str) -> None:
    """Bit for bit, but for fused kernels on a part of a group: they add a decay without rounding in between."""
    first, second = twin_models()

    def split(model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": [p for p in model.parameters() if (p.ndim > 1) == wide]} for wide in (True, False)]

    own = OWN[name](split(first))
    own.param_groups[0]["weight_decay"] = 0.2
    ours = OWN[name](second.parameters() if groups == "one group" else split(second))
    handle = regularize(ours, L2(), Constant(0.1))
    train(first, own, 10)
    train(second, ours, 10, each=lambda step: None)
    exact = "fused" not in name or groups != "one group"
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-7}))
    assert all(group["weight_decay"] == 0 for group in ours.param_groups)
    assert "weight_decay 0.2" in repr(handle)


def test_a_step_that_raises_leaves_the_group_as_it_was() -> None:
    model = mlp()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=0.1)
    regularize(optimizer, L2(), Constant(0.1))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    broken = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    broken.remove()
    before = weights(model)[0]
    optimizer.step()
    torch.testing.assert_close(weights(model)[0], before * (1 - 0.1 * 0.2))
    assert optimizer.param_groups[0]["weight_decay"] == 0


def test_the_environments_schedule_acts_once_beside_a_penalty_and_a_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", "table:0=0.5steps")
    model = mlp()
    optimizer = torch.optim.SGD(
        [{"params": [model[0].weight]}, {"params": [model[2].weight], "weight_decay": 0.4}], lr=0.1, weight_decay=0.0
    )
    regularize(optimizer, L2(), Constant(0.1), [model[0].weight])
    before = weights(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore"):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before[0] * (1 - 0.1 * 2 * 0.1 * 0.5))
    torch.testing.assert_close(model[2].weight.detach(), before[2] * (1 - 0.1 * 0.4 * 0.5))
