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
    """Penalty of one weight, and the ball of two.

    The gradient is NaN, and the ball is empty, where there is none (L0 counts).

    Attributes:
        name: name of the penalty.
        w: places, [K].
        value: Ω at each, [K].
        gradient: ∂Ω/∂w at each, [K].
        ball: pairs of weights with Ω = 1, [2, M].
    """

    name: str
    w: Array
    value: Array
    gradient: Array
    ball: Array


def penalty_shape(text: str, span: float = 1.5, half: int = 150) -> PenaltyShape:
    """Compute a penalty between −``span`` and ``span``, with the class that acts in training."""
    counts = text.strip().lower() == "l0"
    penalty: Penalty = L0() if counts else parse_penalty(text)
    w = torch.arange(-half, half + 1, dtype=torch.float64) * (span / half)  # 0 is exactly among them
    value = np.array([float(penalty.value(one)) for one in w.reshape(-1, 1)])
    if counts:
        return PenaltyShape(penalty.name, w.numpy(), value, np.full(len(w), np.nan), np.empty((2, 0)))
    gradient = np.array([float(penalty.gradient(one)) for one in w.reshape(-1, 1)])
    return PenaltyShape(penalty.name, w.numpy(), value, gradient, _ball(penalty))


def _ball(penalty: Penalty, points: int = 145) -> Array:
    """Compute pairs of weights with Ω = 1, by bisection along each direction, for Ω grows outwards."""
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
    """Split a record's attribute ``penalty``, such as ``l1+l2``; raise `InputError` for one that cannot be drawn."""
    words = recorded.split("+")
    for word in words:
        try:
            parse_penalty(word)
        except InputError:
            raise InputError(
                f"the record's penalty is {word!r}, which has no shape to draw; known: l1, l2, …"
            ) from None
    return words
