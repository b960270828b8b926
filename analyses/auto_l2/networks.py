"""The document's conv net (its section 4), with and without batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.types import InputError


@dataclass(frozen=True)
class Size:
    """``filters`` of both convolutions, ``dense`` units; the document's are 300 and 500."""

    filters: int = 300
    dense: int = 500


def side(pixels: int) -> int:
    """Rows left of ``pixels`` after twice a 3 × 3 convolution without padding and a 2 × 2 pooling; 6 of 32."""
    for _ in range(2):
        pixels = (pixels - 2) // 2
    return pixels


def network(shape: tuple[int, int, int], classes: int, size: Size, *, norm: bool) -> nn.Sequential:
    """Images [N, channels, rows, columns] to scores [N, classes]: 6,224,210 parameters for CIFAR-10 without norm.

    The document does not give the size of its kernels; 3 × 3 without padding is what its published code has.
    """
    channels, rows, columns = shape
    if min(side(rows), side(columns)) < 1:
        raise InputError(f"images of {rows} × {columns} pixels are too small for two convolutions and two poolings")
    parts: list[nn.Module] = []
    for before in (channels, size.filters):
        parts.append(nn.Conv2d(before, size.filters, 3))
        if norm:
            parts.append(nn.BatchNorm2d(size.filters))
        parts += [nn.ReLU(), nn.MaxPool2d(2)]
    flat = size.filters * side(rows) * side(columns)
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(flat, size.dense), nn.ReLU(), nn.Linear(size.dense, classes))


@torch.no_grad()
def lecun(model: nn.Module, deviation: float = 2**0.5) -> None:
    """Weights of standard deviation σ_w/√N_in with σ_w = √2, biases 0 (σ_b = 0): its section 4."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            inputs = module.weight[0].numel()
            module.weight.normal_(0, deviation / inputs**0.5)
            assert module.bias is not None
            module.bias.zero_()


def norm_of(parameters: list[Tensor]) -> float:
    """√Σ‖w‖² of all of them."""
    return float(torch.stack([p.detach().square().sum() for p in parameters]).sum().sqrt())
