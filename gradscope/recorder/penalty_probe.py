"""Interface by which the recorder asks what penalties do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradscope.recorder.update_meter import Pulls


@dataclass(frozen=True)
class PenaltyTerm:
    """How one penalty source reads off the recorded sums.

    Attributes:
        columns: the parameters it covers.
        shares: (a, b) with mean|∂Ω/∂w| = a·mean|w| + b·share of non-zeros, or None where it was measured on the device.
        group: the parameter group.
    """

    columns: NDArray[np.int64]
    shares: tuple[float, float] | None
    group: int


@dataclass
class PenaltyProbe:
    """What the recorder has to know of penalties, without knowing any.

    Attributes:
        terms: the penalty sources.
        strengths: returns λ of each term at the coming step.
        measure: returns Σ|∂Ω/∂w| of a term's columns, [C], by term, where it does not follow from other sums.
        inside_loss: returns what the user's own penalty inside the loss adds to each gradient, to be taken off again.
        value_inside_loss: returns what it adds to the loss.
        logged_inside: the logged loss holds that value.
        pulls: see `update_meter`.
    """

    terms: Sequence[PenaltyTerm]
    strengths: Callable[[], tuple[float, ...]]
    measure: Callable[[Sequence[Tensor]], dict[int, Tensor]] | None = None
    inside_loss: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    value_inside_loss: Callable[[], Tensor] | None = None
    logged_inside: bool = True
    pulls: Pulls | None = None

    def needs_zeros(self) -> bool:
        """Return whether a term's size follows from the number of weights that are not 0."""
        return any(t.shares and t.shares[1] for t in self.terms)
