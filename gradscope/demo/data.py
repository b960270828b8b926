"""scikit-learn's handwritten digits: 1,797 real 8 × 8 images that ship inside the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Training and validation data.

    Attributes:
        x: training images, standardised, [N, 64] in float32.
        y: their labels, [N].
        x_validation: validation images, [V, 64].
        y_validation: their labels, [V].
    """

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor


def digits() -> Split:
    """Load the digits, 80 % for training and the rest for validation, always the same split."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order], dtype=torch.float32)
    y = torch.tensor(labels[order], dtype=torch.int64)
    cut = int(0.8 * len(x))
    x = (x - x[:cut].mean()) / x[:cut].std()
    return Split(x[:cut], y[:cut], x[cut:], y[cut:])
