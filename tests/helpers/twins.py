"""Models that begin with the same weights, and whether they still have the same."""

from __future__ import annotations

import torch
from torch import nn

from tests.helpers.loops import mlp


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def twin_models() -> tuple[nn.Module, nn.Module]:
    first = mlp()
    second = mlp()
    second.load_state_dict(first.state_dict())
    return first, second
