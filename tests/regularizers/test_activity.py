"""Penalties on outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradscope import (
    CPR,
    L1,
    L2,
    Constant,
    InputError,
    LInf,
    regularize_activity,
)
from tests.helpers.loops import batches, mlp
from tests.helpers.twins import twin_models, weights


def test_an_activity_penalty_is_what_the_loss_with_it_inside_gives() -> None:
    first, second = twin_models()
    inside, ours = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (first, second))
    regularize_activity(ours, second, L1(), Constant(0.3), modules=r"^1$|^3$")
    for x, y in batches(5):
        inside.zero_grad()
        hidden = [first[:2](x), first[:4](x)]
        penalty = sum(h.abs().sum() / len(x) for h in hidden)
        (nn.functional.cross_entropy(first(x), y) + 0.3 * penalty).backward()
        inside.step()
        ours.zero_grad()
        nn.functional.cross_entropy(second(x), y).backward()
        pure = [p.grad.clone() for p in second.parameters() if p.grad is not None]
        ours.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(second.parameters(), pure, strict=True) if p.grad is not None)
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b)


class Checkpointed(nn.Module):
    """The hidden layer's outputs are made again in the backward pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.net[:4], x, use_reentrant=False)
        return self.net[4](hidden)


def no_change(step: int, model: nn.Sequential) -> None:
    pass


def thawed(step: int, model: nn.Sequential) -> None:
    model[0].requires_grad_(step > 2)


def frozen_later(step: int, model: nn.Sequential) -> None:
    model[0].requires_grad_(step < 3)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("change", [no_change, thawed, frozen_later])
@pytest.mark.parametrize("wrap", [nn.Sequential, Checkpointed])
def test_what_is_not_trained_on_does_not_count(
    wrap: Callable[[nn.Module], nn.Module], change: Callable[[int, nn.Sequential], None], to_none: bool
) -> None:
    """A batch of NaN that is left out before or after its backward pass, a probe; parameters thawed or frozen."""
    first, second = twin_models()
    change(0, second)
    inside, ours = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (first, second))
    model = wrap(second)
    regularize_activity(ours, model, L1(), Constant(0.3), modules=[second[1], second[3]])
    for step, (x, y) in enumerate(batches(7)):
        change(step, first)
        change(step, second)
        bad = torch.full_like(x, torch.nan)
        model(bad)
        nn.functional.cross_entropy(model(bad), y).backward()
        model(x)
        inside.zero_grad(set_to_none=to_none)
        ours.zero_grad(set_to_none=to_none)
        hidden = [first[:2](x), first[:4](x)]
        penalty = sum(h.abs().sum() / len(x) for h in hidden)
        (nn.functional.cross_entropy(first(x), y) + 0.3 * penalty).backward()
        inside.step()
        nn.functional.cross_entropy(model(x), y).backward()
        ours.step()
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b)


def test_outputs_that_the_next_module_writes_to_in_place() -> None:
    """A linear or convolutional layer before ``ReLU(inplace=True)``: its own output is penalised."""
    first, second = twin_models()
    second[1].inplace = True
    inside, ours = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second))
    regularize_activity(ours, second, L2(), Constant(0.1), modules=r"^0$")
    for x, y in batches(3):
        inside.zero_grad()
        (nn.functional.cross_entropy(first(x), y) + 0.1 * first[0](x).square().sum() / len(x)).backward()
        inside.step()
        ours.zero_grad()
        nn.functional.cross_entropy(second(x), y).backward()
        ours.step()
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("part", [False, True])
def test_what_torch_jit_has_made_takes_no_activity_penalty(part: bool) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if part:
        model[0] = torch.jit.script(model[0])
    else:
        model = torch.jit.script(model)
    with pytest.raises(InputError, match=r"made by torch\.jit, which takes no hooks"):
        regularize_activity(optimizer, model, L1(), 0.1, modules=r"^0$")


def test_an_activity_penalty_leaves_evaluation_alone_and_comes_off_again() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = regularize_activity(optimizer, model, LInf(), Constant(1.0), modules=[model[1]])
    model.eval()
    model(torch.ones(2, 6))
    with torch.no_grad():
        model.train()(torch.ones(2, 6))
    assert not any(pull.any() for pull in handle.pulls(list(model.parameters())))
    handle.detach()
    assert not model._forward_hooks
    assert not model[1]._forward_hooks


def test_mistakes_with_activity_penalties_are_named() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="modules chooses none of the 6 modules"):
        regularize_activity(optimizer, model, L1(), Constant(0.1), "conv")
    with pytest.raises(InputError, match="not a regular expression"):
        regularize_activity(optimizer, model, L1(), Constant(0.1), "(")
    with pytest.raises(InputError, match="on outputs, expected one such as"):
        regularize_activity(optimizer, model, L1(), CPR(), nn.ReLU)
    with pytest.raises(InputError, match="penalty is 3"):
        regularize_activity(optimizer, model, 3, Constant(0.1), nn.ReLU)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not work with LBFGS"):
        regularize_activity(torch.optim.LBFGS(model.parameters()), model, L1(), Constant(0.1), nn.ReLU)
    recurrent = nn.LSTM(3, 2)
    regularize_activity(torch.optim.SGD(recurrent.parameters(), lr=0.1), recurrent, L1(), Constant(0.1), nn.LSTM)
    with pytest.raises(InputError, match="LSTM puts out a tuple"):
        recurrent(torch.ones(1, 1, 3))
