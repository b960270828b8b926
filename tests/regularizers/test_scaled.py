"""A penalty under a GradScaler, on the CPU, with fused optimizers and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradscope import (
    CPR,
    L1,
    L2,
    Delayed,
    Lp,
    Penalty,
    regularize,
)
from tests.helpers.loops import batches
from tests.helpers.twins import twin_models, weights

# -- mixed precision ------------------------------------------------------------------------------


def train_scaled(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, overflow_at: tuple[int, ...]) -> None:
    """Under a GradScaler on the CPU; the loss of some steps overflows."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10**6, backoff_factor=0.5)
    for step, (x, y) in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss * (torch.inf if step in overflow_at else 1)).backward()
        scaler.step(optimizer)
        scaler.update()


KINDS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}
WAYS: dict[str, tuple[Penalty, dict[str, Any]]] = {
    "l2": (L2(), {}),
    "decoupled l2": (L2(), {"decoupled": True}),
    "l1": (L1(), {}),
    "l3": (Lp(3), {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_scaler_changes_nothing(kind: str, way: str) -> None:
    """An overflow skips all of it: update, penalty, proximal step and the tick of the schedule."""
    first, second = twin_models()
    plain, scaled = KINDS[kind](first.parameters()), KINDS[kind](second.parameters())
    penalty, options = WAYS[way]
    handles = [regularize(optimizer, penalty, Delayed(0.1, steps=3), **options) for optimizer in (plain, scaled)]

    for step, (x, y) in enumerate(batches(8)):  # the same batches without those that overflow
        if step not in (1, 5):
            plain.zero_grad()
            nn.functional.cross_entropy(first(x), y).backward()
            plain.step()
    train_scaled(second, scaled, 8, overflow_at=(1, 5))
    assert [handle.step for handle in handles] == [6, 6]
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_cpr_is_skipped_on_overflow_too() -> None:
    first, second = twin_models()
    optimizers = [KINDS["fused sgd"](m.parameters()) for m in (first, second)]
    handles = [regularize(optimizer, L2(), CPR(warm_start=2)) for optimizer in optimizers]
    for step, (x, y) in enumerate(batches(8)):
        if step != 5:
            optimizers[0].zero_grad()
            nn.functional.cross_entropy(first(x), y).backward()
            optimizers[0].step()
    train_scaled(second, optimizers[1], 8, overflow_at=(5,))
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert handles[0].step == handles[1].step == 7
