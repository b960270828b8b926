"""The strategies of the document's Table 1 as values, and how each reaches a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

import gradscope
from analyses.common.penalties import subgradient
from gradscope.regularizers.strategies import fgsm


@dataclass(frozen=True)
class Strategy:
    """What is added to the plain training; nothing by default.

    ``kernel``, ``bias``, ``activity``: strengths of ``penalty`` on weights, biases and the outputs of the convolutions
    (after ReLU). ``proximal``: L1 by its proximal step, gradscope's way, instead of the subgradient, Keras' way.
    ``moves``: random rotations, shifts and, where they make sense, flips. ``adversarial``: ε of FGSM, in standard
    deviations of the pixels. ``patience``: of early stopping, as a share of the epochs. ``longer``: times the epochs.
    """

    penalty: gradscope.Penalty | None = None
    kernel: float = 0.0
    bias: float = 0.0
    activity: float = 0.0
    proximal: bool = False
    moves: bool = False
    whitens: bool = False
    noise: float = 0.0
    dropout: float = 0.0
    adversarial: float = 0.0
    patience: float = 0.0
    longer: int = 1


_L1 = Strategy(gradscope.L1(), kernel=1e-2, bias=1e-4, activity=1e-5)
_L2 = Strategy(gradscope.L2(), kernel=1e-3, bias=1e-4, activity=1e-5)
_MOVED = Strategy(moves=True, whitens=True)

#: Table 1, in its order.
TABLE_1 = {
    "none": Strategy(),
    "L1": _L1,
    "L2": _L2,
    "L1L2": Strategy(gradscope.L1L2(), kernel=1e-3),
    "augmentation": _MOVED,
    "noise": Strategy(noise=0.005),
    "early stopping": Strategy(patience=0.2),  # 40 of 200 epochs
    "dropout": Strategy(dropout=0.1),
    "FGSM": Strategy(adversarial=0.005),
    "combination": replace(_L2, moves=True, whitens=True, dropout=0.1),
}
#: Table 3: other strengths of L2 on the weights; 1e-3 is that of Table 1.
TABLE_3 = {f"L2 {strength}": replace(_L2, kernel=float(strength)) for strength in ("1e-1", "1e-2", "1e-4")}
#: What the document leaves open, or what it takes to see an effect at all.
READINGS = {
    "L1 1e-4": replace(_L1, kernel=1e-4),
    "L1 proximal": replace(_L1, proximal=True),
    "augmentation without whitening": replace(_MOVED, whitens=False),
    "combination without whitening": replace(_L2, moves=True, dropout=0.1),
    "FGSM 0.1": Strategy(adversarial=0.1),
}
#: 240 steps, where the document has 100,000, are few for what makes training harder, and for early stopping to stop:
#: three times and ten times the epochs, at small scale only.
LONGER = {
    f"{name}, longer": replace({**TABLE_1, **READINGS}[name], longer=3)
    for name in (
        "none", "L2", "L1L2", "noise", "dropout", "FGSM", "augmentation without whitening",
        "combination without whitening",
    )
}  # fmt: skip
LONGEST = {f"{name}, longest": replace(TABLE_1[name], longer=10) for name in ("none", "early stopping")}
PARTS = {"table2": TABLE_1, "table3": TABLE_3, "readings": READINGS, "longer": LONGER, "longest": LONGEST}
STRATEGIES = {**TABLE_1, **TABLE_3, **READINGS, **LONGER, **LONGEST}


def attach(strategy: Strategy, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Put the penalties of a strategy on an optimizer, constant in time."""
    penalty = strategy.penalty
    if penalty is None:
        return
    acting = penalty if strategy.proximal else subgradient(penalty)
    gradscope.regularize(optimizer, acting, gradscope.Constant(strategy.kernel))
    if strategy.bias:
        biases = gradscope.Constant(strategy.bias)
        gradscope.regularize(optimizer, acting, biases, "bias$", model=model)
    if strategy.activity:
        gradscope.regularize_activity(optimizer, model, penalty, gradscope.Constant(strategy.activity), nn.ReLU)


def moves(flips: bool, degrees: float = 10.0, share: float = 0.1) -> Callable[[Tensor], Tensor]:
    """Rotations within ± ``degrees`` and shifts within ± ``share`` of the sides, each image its own; edges repeat.

    As Keras' ImageDataGenerator does it (bilinear, ``fill_mode='nearest'``), on square images [N, C, side, side].
    """

    def augment(x: Tensor) -> Tensor:
        turn, right, down = (2 * torch.rand(len(x), device=x.device) - 1 for _ in range(3))
        angle = turn * math.radians(degrees)
        mirror = 1 - 2 * (torch.rand(len(x), device=x.device) < 0.5).float() if flips else torch.ones_like(angle)
        # Coordinates run from -1 to 1, so a share of a side is twice as much in them.
        rows = [
            torch.stack([mirror * angle.cos(), -angle.sin(), 2 * share * right], dim=1),
            torch.stack([mirror * angle.sin(), angle.cos(), 2 * share * down], dim=1),
        ]
        grid = affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
        return grid_sample(x, grid, padding_mode="border", align_corners=False)

    return augment


def adversarial(model: nn.Module, epsilon: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss on FGSM examples of a batch, to be added to the loss on the batch, in equal parts."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(fgsm(model, cross_entropy, x, y, epsilon)), y)

    return loss
