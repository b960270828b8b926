"""Penalties: Ω(w), its gradient ∂Ω/∂w and, where one exists, its proximal map.

Ω is as in Park et al. (Achieving Strong Regularization for Deep Neural Networks, eq. 2): L2 is
‖w‖² without a half, so that its gradient is 2w and PyTorch's ``weight_decay`` is twice the strength.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gradscope import checks
from gradscope.types import InputError


class Penalty(ABC):
    """One penalty function, elementwise or per tensor. Stateless."""

    name: str
    #: The penalty acts by its proximal map after the optimizer's update, not through the gradient.
    proximal_step: bool = False

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """Ω(w), a scalar. ``w``: any shape."""

    @abstractmethod
    def gradient(self, w: Tensor) -> Tensor:
        """∂Ω/∂w, the shape of ``w``; a subgradient of 0 where Ω has a kink at zero."""

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """argmin over u of threshold·Ω(u) + ½‖u − w‖²."""
        raise NotImplementedError(f"{self.name} has no proximal map here")

    def shares(self) -> tuple[float, float] | None:
        """(a, b) where mean|∂Ω/∂w| = a·mean|w| + b·(share of weights that are not 0), or None.

        With it the size of the penalty gradient follows from statistics that are recorded anyway.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class L2(Penalty):
    """Ω = ‖w‖². Strength λ is ``weight_decay`` 2λ."""

    name = "l2"

    def value(self, w: Tensor) -> Tensor:
        return (w * w).sum()

    def gradient(self, w: Tensor) -> Tensor:
        return 2 * w

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        return w / (1 + 2 * threshold)

    def shares(self) -> tuple[float, float]:
        return 2.0, 0.0


class L1(Penalty):
    """Ω = ‖w‖₁, by soft-thresholding after the update (Park et al., eq. 9)."""

    name = "l1"
    proximal_step = True

    def value(self, w: Tensor) -> Tensor:
        return w.abs().sum()

    def gradient(self, w: Tensor) -> Tensor:
        return w.sign()

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        return w.sign() * (w.abs() - threshold).clamp_min(0)

    def shares(self) -> tuple[float, float]:
        return 0.0, 1.0


class L1L2(Penalty):
    """Ω = l1·‖w‖₁ + l2·‖w‖² (elastic net), by its proximal map."""

    name = "l1l2"
    proximal_step = True

    def __init__(self, l1: float = 1.0, l2: float = 1.0) -> None:
        for name, share in (("l1", l1), ("l2", l2)):
            if not (math.isfinite(share) and share >= 0):
                raise InputError(f"{name} is {share!r}; expected a finite number of at least 0")
        self.l1, self.l2 = float(l1), float(l2)

    def value(self, w: Tensor) -> Tensor:
        return self.l1 * w.abs().sum() + self.l2 * (w * w).sum()

    def gradient(self, w: Tensor) -> Tensor:
        return self.l1 * w.sign() + 2 * self.l2 * w

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        shrunk = w.sign() * (w.abs() - threshold * self.l1).clamp_min(0)
        return shrunk / (1 + 2 * threshold * self.l2)

    def shares(self) -> tuple[float, float]:
        return 2 * self.l2, self.l1

    def __repr__(self) -> str:
        return f"L1L2(l1={self.l1:g}, l2={self.l2:g})"


class Lp(Penalty):
    """Ω = Σ|w|ᵖ without the root, p ≥ 1."""

    def __init__(self, p: float) -> None:
        if not (math.isfinite(p) and p >= 1):
            raise InputError(f"p is {p!r}; expected a finite number of at least 1")
        self.p = float(p)
        self.name = f"l{self.p:g}"

    def value(self, w: Tensor) -> Tensor:
        return w.abs().pow(self.p).sum()

    def gradient(self, w: Tensor) -> Tensor:
        return self.p * w.sign() * w.abs().pow(self.p - 1)

    def __repr__(self) -> str:
        return f"Lp({self.p:g})"


class LInf(Penalty):
    """Ω = max|w| per tensor; the entries that share the maximum share the subgradient equally."""

    name = "linf"

    def value(self, w: Tensor) -> Tensor:
        return w.abs().max() if w.numel() else w.sum()

    def gradient(self, w: Tensor) -> Tensor:
        if not w.numel():
            return torch.zeros_like(w)
        size = w.abs()
        at_maximum = (size == size.max()).to(w.dtype)
        return w.sign() * at_maximum / at_maximum.sum()


def parse_penalty(text: str) -> Penalty:
    """The penalty that a word names, as on the command line and in ``GRADSCOPE_PENALTY``.

    >>> parse_penalty("l1"), parse_penalty("l3")
    (L1(), Lp(3))
    """
    word = checks.penalty_word(text)
    simple: dict[str, type[Penalty]] = {"l1": L1, "l2": L2, "l1l2": L1L2, "linf": LInf}
    return simple[word]() if word in simple else Lp(float(word[1:]))
