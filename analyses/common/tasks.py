"""Small real tasks, all from scikit-learn's handwritten digits, which ship inside the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from gradscope.demo.data import Split, digits


@dataclass(frozen=True)
class Task:
    """Inputs [N, rows, columns]; class numbers [N], or for a regression (``classes`` 0) standardised values [N, 1].

    ``baseline``: the loss of the best constant predictor on the training data (entropy of the classes, or variance).
    """

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor
    classes: int

    @property
    def outputs(self) -> int:
        """Width of the last layer."""
        return self.classes or 1

    @property
    def baseline(self) -> float:
        """In nats, or as a mean square."""
        if not self.classes:
            return float(self.y.var(correction=0))
        share = torch.bincount(self.y, minlength=self.classes) / len(self.y)
        return float(-(share * share.clamp_min(1e-12).log()).sum())

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, or the mean square error of a regression."""
        return cross_entropy(output, y) if self.classes else mse_loss(output, y)


def pairs(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` random pairs of these digits side by side, [count, 8, 16], and the number they read as."""
    chosen = torch.from_numpy(np.random.default_rng(seed).integers(len(x), size=(count, 2)))
    images = x.view(-1, 8, 8)[chosen]
    return torch.cat([images[:, 0], images[:, 1]], dim=-1), 10 * y[chosen[:, 0]] + y[chosen[:, 1]]


def of_digits(data: Split) -> Task:
    """Ten classes; 1,437 training images."""
    return Task(data.x.view(-1, 8, 8), data.y, data.x_validation.view(-1, 8, 8), data.y_validation, 10)


def of_pairs(data: Split, count: int) -> Task:
    """A hundred classes: pairs of disjoint digits for training and for validation."""
    x, y = pairs(data.x, data.y, count, seed=1)
    return Task(x, y, *pairs(data.x_validation, data.y_validation, 1000, seed=2), 100)


def of_sums(data: Split, count: int) -> Task:
    """A regression: the sum of the two digits of a pair, standardised."""
    task = of_pairs(data, count)
    sums = (task.y // 10 + task.y % 10)[:, None].float()
    validation = (task.y_validation // 10 + task.y_validation % 10)[:, None].float()
    mean, std = sums.mean(), sums.std()
    return Task(task.x, (sums - mean) / std, task.x_validation, (validation - mean) / std, 0)


@cache
def task(name: str) -> Task:
    """``digits``, ``pairs`` (5,120 training pairs) or ``sums`` (2,048), always the same data."""
    if name == "digits":
        return of_digits(digits())
    return of_pairs(digits(), 5120) if name == "pairs" else of_sums(digits(), 2048)
