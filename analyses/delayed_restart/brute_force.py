"""Many networks trained at once, each with its own seed, strength and delay: brute force at a bearable price.

One step of all of them is one call of `torch.func.vmap`. Every network sees the same initial weights and the same
batches as a plain loop with its seed would (up to rounding); SGD with momentum, L2 through the gradient, L1 by its
proximal step, on everything with more than one dimension, as `gradscope.regularize` does it. No record and no judge is
involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from analyses.delayed_restart.training import Setting, data, enough, network

MOMENTUM = 0.9


@dataclass(frozen=True)
class Member:
    """One network; ``delay`` in epochs."""

    strength: float
    seed: int
    delay: int


def train(setting: Setting, members: Sequence[Member]) -> list[tuple[bool, float]]:
    """Train all of them to the horizon; whether each has learned (the label), and its last validation accuracy."""
    torch.set_num_threads(1)
    split = data(setting.task)
    models, orders = [], []
    for member in members:
        torch.manual_seed(member.seed)
        models.append(network(setting))
        orders.append(torch.Generator().set_state(torch.get_rng_state()))
    skeleton = models[0].to("meta")
    models[0] = _again(setting, members[0].seed)
    weights, _ = stack_module_state(models)
    weights = {name: w.detach() for name, w in weights.items()}
    moments = {name: torch.zeros_like(w) for name, w in weights.items()}
    strengths = torch.tensor([member.strength for member in members])
    delays = torch.tensor([member.delay for member in members])

    def loss_of(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(skeleton, own, (x,)), y)

    step_of_all = vmap(grad_and_value(loss_of))
    losses = []
    for epoch in range(setting.epochs):
        acting = strengths * (epoch >= delays)
        order = torch.stack([torch.randperm(len(split.x), generator=g) for g in orders])
        for batch in order.split(setting.batch, dim=1):
            gradients, loss = step_of_all(weights, split.x[batch], split.y[batch])
            _update(setting, weights, moments, gradients, acting)
            losses.append(loss)
    accuracies = _accuracies(skeleton, weights, setting)
    history = torch.stack(losses)
    return [(enough(history[:, i], setting), accuracies[i]) for i in range(len(members))]


def _again(setting: Setting, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return network(setting)


@torch.no_grad()
def _update(
    setting: Setting,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    gradients: dict[str, Tensor],
    strengths: Tensor,
) -> None:
    for name, w in weights.items():
        own = strengths.view(-1, *[1] * (w.ndim - 1)) if w.ndim > 2 else None  # the first dimension counts networks
        g = gradients[name]
        if own is not None and setting.penalty == "l2":
            g = g + 2 * own * w
        moments[name].mul_(MOMENTUM).add_(g)
        w.sub_(setting.lr * moments[name])
        if own is not None and setting.penalty == "l1":
            w.copy_(w.sign() * (w.abs() - setting.lr * own).clamp_min(0))


@torch.no_grad()
def _accuracies(skeleton: torch.nn.Module, weights: dict[str, Tensor], setting: Setting) -> list[float]:
    split = data(setting.task)
    found = vmap(lambda own: functional_call(skeleton, own, (split.x_validation,)))(weights)
    return [float(right) for right in (found.argmax(-1) == split.y_validation).float().mean(-1)]
