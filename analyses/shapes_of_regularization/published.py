"""What the document's published notebook trains on, and how it measures: read there, written anew.

github.com/riveSunder/SortaSota, regularization_shapes/regularization_shapes.ipynb (January 2021). Its softmax runs
over the batch, not over the classes: each class shares a probability of 1 among the images. Its cross-entropy counts
the other classes too. The same softmax stands in its accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from analyses.shapes_of_regularization.networks import FIRST_SEED

#: 719 training, 539 validation and 539 test images: 30 % each for the last two.
SHARE = 0.3


@dataclass(frozen=True)
class Split:
    """Pixels [N, 64] between 0 and 16, not standardised, and labels [N]. The test images are never looked at."""

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor

    def to(self, device: str) -> Split:
        """The same on a device."""
        return Split(*(getattr(self, name).to(device) for name in ("x", "y", "x_validation", "y_validation")))


def split() -> Split:
    """In the order of numpy's old generator with seed 1337."""
    images, labels = load_digits(return_X_y=True)
    order = np.arange(len(images))
    np.random.RandomState(FIRST_SEED).shuffle(order)
    x, y = torch.tensor(images[order], dtype=torch.float32), torch.tensor(labels[order])
    held = int(SHARE * len(x))
    first, second = len(x) - 2 * held, len(x) - held
    return Split(x[:first], y[:first], x[first:second], y[first:second])


def batch_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """−mean(y·ln p + (1 − y)·ln(1 − p)) with p the softmax of scores [N, classes] over N; labels [N]. In nats."""
    chosen = torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
    log_p = scores.log_softmax(0).clamp(max=-1e-7)  # ln(1 − p) at p = 1 is not finite
    return -torch.where(chosen, log_p, torch.log(-torch.expm1(log_p))).mean()


def constant_loss(count: int, classes: int = 10) -> float:
    """The loss of equal scores for ``count`` images: .660 for 719 of them."""
    return -(math.log(1 / count) + (classes - 1) * math.log1p(-1 / count)) / classes


def batch_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of images whose label has the largest of the probabilities, which depend on the other images.

    In float64: on the plateau of the deep nets the scores differ by 1e-6 and less beside ln N.
    """
    return (scores.double().log_softmax(0).argmax(1) == labels).float().mean()
