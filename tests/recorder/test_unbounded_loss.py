"""A loss that is the mean of an output: nothing bounds it, and no level of it means learning or failing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from gradscope import Verdict
from gradscope.recorder.baseline.unbounded import is_unbounded
from gradscope.store.record import Record


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(), nn.Linear(16, 1))


def gradient_penalty(net: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    share = torch.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(net(between).sum(), between, create_graph=True)
    far: Tensor = slope.norm(2, 1) - 1
    return far.square().mean()


REAL, FAKE = 2 + torch.randn(32, 4), torch.randn(32, 4)
CLASSES = torch.randint(0, 2, (32,))
UNBOUNDED: dict[str, Callable[[nn.Module], Tensor]] = {
    "critic": lambda net: net(FAKE).mean() - net(REAL).mean(),
    "critic with gradient penalty": lambda net: (
        net(FAKE).mean() - net(REAL).mean() + 10 * gradient_penalty(net, REAL, FAKE)
    ),
    "generator": lambda net: -net(FAKE).squeeze(1).mean(),
    "halved": lambda net: net(FAKE).view(-1).mean() / 2,
}
BOUNDED: dict[str, Callable[[nn.Module], Tensor]] = {
    "hinge": lambda net: F.relu(1 - net(REAL)).mean() + F.relu(1 + net(FAKE)).mean(),
    "squares": lambda net: (net(REAL) - 1).square().mean(),
    "torch's": lambda net: F.binary_cross_entropy_with_logits(net(REAL)[:, 0], CLASSES.float()),
}


def divergence(net: nn.Module) -> Tensor:
    """Of a normal distribution from the standard one: what is linear in its spread is exponential in it, too."""
    spread: Tensor = net(REAL)
    return -0.5 * (1 + spread - spread.exp()).sum(1).mean()


@pytest.mark.parametrize("name", UNBOUNDED)
def test_the_mean_of_an_output_is_unbounded(name: str) -> None:
    assert is_unbounded(UNBOUNDED[name](critic()))


@pytest.mark.parametrize("name", BOUNDED)
def test_other_losses_are_not(name: str) -> None:
    assert not is_unbounded(BOUNDED[name](critic()))


def test_nor_what_something_else_depends_on() -> None:
    net = critic()
    assert not is_unbounded(divergence(net))
    output = net(REAL)
    assert not is_unbounded((F.softplus(output) - output).mean())
    assert not is_unbounded(torch.tensor(1.0))


@pytest.mark.parametrize("rate", [1e-3, 0.0])
def test_a_critic_is_neither_healthy_nor_stalled(rate: float, tmp_path: Path) -> None:
    net = critic()
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    with gradscope.record(net, optimizer, tmp_path / "run.h5", horizon=200, on_failure="ignore") as run:
        for _ in range(200):
            real, fake = 2 + torch.randn(32, 4), torch.randn(32, 4)
            loss = net(fake).mean() - net(real).mean() + gradient_penalty(net, real, fake)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with Record(tmp_path / "run.h5") as record:
        assert record.info.adversary
    found = gradscope.diagnose(tmp_path / "run.h5")
    assert found.verdict is Verdict.UNDECIDED
    assert any("which nothing bounds from below" in line for line in found.evidence)
