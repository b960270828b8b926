"""What happens between the steps: SAM's two passes, optimizers with modes, evaluation that looks like training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import exact
from tests.helpers.loops import mlp
from tests.wild.frame import DECAY, Loop, capture, held

STEPS = 5


class Sharpness(torch.optim.Optimizer):
    """SAM: climb to where the loss is worst nearby, and step from where it stood by the gradient found there."""

    def __init__(self, params: Any, base: type[torch.optim.Optimizer], rho: float = 0.05, **settings: Any) -> None:
        super().__init__(params, {"rho": rho, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        found = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in found]).norm()
        for p in found:
            self.state[p]["before"] = p.detach().clone()
            p.add_(p.grad * self.param_groups[0]["rho"] / (norm + 1e-12))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self.state:
            p.copy_(self.state[p]["before"])
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


def sharpness_aware(loop: Loop) -> list[Tensor]:
    model = mlp()
    optimizer = Sharpness(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=DECAY)
    with loop.record(model, optimizer) as run:
        for (batch,) in exact.micro_batches(STEPS):
            loss = exact.loss_of(model, batch)
            loss.backward()
            optimizer.first_step()
            loop.expect(model, lambda net: exact.loss_of(net, batch), DECAY)  # noqa: B023  (called at once)
            loop.forget("activation_mean_abs")  # of both passes
            exact.loss_of(model, batch).backward()
            optimizer.second_step()
            run.log(loss=loss)
    return list(model.parameters())


def test_two_passes_a_step(tmp_path: Path) -> None:
    """A row holds what the step was made of: the second pass, and the weights at which it was taken."""
    dataset = held(sharpness_aware, tmp_path).dataset()
    assert dataset["strength"].values[0].tolist() == [pytest.approx(DECAY / 2)]


class Interpolated(torch.optim.Optimizer):
    """Schedule-free SGD: gradients at y between z and the average x; weights are y in training, x in evaluation."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "k": 0, "train_mode": True})

    def _move(self, to: float, training: bool) -> None:
        for group in self.param_groups:
            for p in group["params"] if group["train_mode"] != training else ():
                if "z" in self.state[p]:
                    p.data.lerp_(self.state[p]["z"], to)
            group["train_mode"] = training

    def train(self) -> None:
        self._move(0.1, True)

    def eval(self) -> None:
        self._move(1 - 1 / 0.9, False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        for group in self.param_groups:
            assert group["train_mode"]
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                x = (p - 0.1 * z) / 0.9
                z.sub_(p.grad + group["weight_decay"] * p, alpha=group["lr"])
                x.lerp_(z, 1 / group["k"])
                p.copy_(0.1 * z + 0.9 * x)


def schedule_free(loop: Loop) -> list[Tensor]:
    model = mlp()
    optimizer = Interpolated(model.parameters(), lr=0.1, weight_decay=DECAY)
    with loop.record(model, optimizer) as run:
        for (batch,) in exact.micro_batches(2 * STEPS):
            optimizer.train()
            loop.expect(model, lambda net: exact.loss_of(net, batch), DECAY)  # noqa: B023  (called at once)
            optimizer.zero_grad()
            loss = exact.loss_of(model, batch)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            optimizer.eval()
            with torch.no_grad():
                exact.loss_of(model, batch)
    return list(model.parameters())


def test_an_optimizer_that_has_modes(tmp_path: Path) -> None:
    held(schedule_free, tmp_path)


class Signed(torch.optim.Optimizer):
    """Lion: the sign of an average moves the weights, decoupled decay shrinks them."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((0.9 * average + 0.1 * p.grad).sign(), alpha=group["lr"])
                average.lerp_(p.grad, 0.01)


def signed(loop: Loop) -> list[Tensor]:
    model = mlp()
    optimizer = Signed(model.parameters(), lr=0.003, weight_decay=DECAY)
    with loop.record(model, optimizer) as run:
        for (batch,) in exact.micro_batches(2 * STEPS):
            loop.expect(model, lambda net: exact.loss_of(net, batch), DECAY)  # noqa: B023  (called at once)
            optimizer.zero_grad()
            loss = exact.loss_of(model, batch)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return list(model.parameters())


def test_decay_beside_the_update(tmp_path: Path) -> None:
    told = capture(held(signed, tmp_path).dataset())["penalties"]
    assert [one["acts"] for one in told] == ["decoupled"]


def looking(
    context: Callable[[], Any], mode: bool, model: Callable[[], nn.Module] = mlp
) -> Callable[[Loop], list[Tensor]]:
    """Forwards between the steps that are none of the training's."""

    def shape(loop: Loop) -> list[Tensor]:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=DECAY)
        with loop.record(net, optimizer) as run:
            for (batch,) in exact.micro_batches(STEPS):
                with context():
                    net.train(mode)
                    net(3 * batch[0])
                net.train()
                loop.expect(net, lambda twin: exact.loss_of(twin, batch), DECAY)  # noqa: B023  (called at once)
                optimizer.zero_grad()
                loss = exact.loss_of(net, batch)
                with context():
                    net(7 * batch[0])  # between a forward and its backward
                loss.backward()
                with context():
                    net(5 * batch[0])  # between a backward and its step
                optimizer.step()
                run.log(loss=loss)
        return [*net.parameters(), *net.buffers()]

    return shape


@pytest.mark.parametrize("mode", [True, False], ids=["in training mode", "in evaluation mode"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_between_steps(tmp_path: Path, context: Callable[[], Any], mode: bool) -> None:
    held(looking(context, mode), tmp_path)
