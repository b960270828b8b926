"""A penalty as a function of one weight and of two, for drawings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.regularizers.groups import parse_penalty
from gradscope.regularizers.penalties import L0, Penalty
from gradscope.types import InputError

Array = NDArray[np.float64]

#: What is drawn where nobody asks for a penalty: the norms of "The Shapes of Regularization".
FAMILY = ("l0", "l1", "l2", "l3", "linf")


@dataclass(frozen=True)
class PenaltyShape:
    """``value``, ``gradient`` [K]: Ω and ∂Ω/∂w at ``w`` [K]. ``ball`` [2, M]: two weights with Ω = 1.

    The gradient is NaN, and the ball is empty, where there is none (L0 counts).
    """

    name: str
    w: Array
    value: Array
    gradient: Array
    ball: Array


def penalty_shape(text: str, span: float = 1.5, half: int = 150) -> PenaltyShape:
    """The penalty that a word names between −``span`` and ``span``, from the class that acts in training."""
    counts = text.strip().lower() == "l0"
    penalty: Penalty = L0() if counts else parse_penalty(text)
    w = torch.arange(-half, half + 1, dtype=torch.float64) * (span / half)  # 0 is exactly among them
    value = np.array([float(penalty.value(one)) for one in w.reshape(-1, 1)])
    if counts:
        return PenaltyShape(penalty.name, w.numpy(), value, np.full(len(w), np.nan), np.empty((2, 0)))
    gradient = np.array([float(penalty.gradient(one)) for one in w.reshape(-1, 1)])
    return PenaltyShape(penalty.name, w.numpy(), value, gradient, _ball(penalty))


def _ball(penalty: Penalty, points: int = 145) -> Array:
    """Two weights with Ω = 1, all the way round; found along each direction by halving, for Ω grows outwards."""
    angle = np.linspace(0, 2 * np.pi, points)
    direction = np.stack([np.cos(angle), np.sin(angle)])
    low, high = np.zeros(points), np.full(points, 2.0)
    layer = (2, 1) if penalty.name == "group:input" else (1, 2)  # both weights in one group
    for _ in range(36):
        middle = (low + high) / 2
        outside = (
            np.array([float(penalty.value(torch.from_numpy(w).reshape(layer))) for w in (direction * middle).T]) > 1
        )
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return np.asarray(direction * low)


def penalty_words(recorded: str) -> list[str]:
    """The penalties in a record's attribute ``penalty``, such as ``l1+l2``; those that cannot be drawn are refused."""
    words = recorded.split("+")
    for word in words:
        try:
            parse_penalty(word)
        except InputError:
            raise InputError(
                f"the record's penalty is {word!r}, which has no shape to draw; known: l1, l2, …"
            ) from None
    return words
