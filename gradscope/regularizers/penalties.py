"""Penalties: Ω(w), its gradient ∂Ω/∂w and, where one exists, its proximal map.

Ω is as in Park et al. (Achieving Strong Regularization for Deep Neural Networks, eq. 2): L2 is ‖w‖² without a half, so
that its gradient is 2w and PyTorch's ``weight_decay`` is twice the strength.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.regularizers.schedule import number_text
from gradscope.types import InputError

Tensors = Sequence[Tensor]


class Penalty(ABC):
    """Base of all penalties, elementwise, per group or per tensor. Stateless."""

    #: The penalty as text; ``parse_penalty`` reads it back.
    name: str
    #: The penalty acts by its proximal map after the optimizer's update, not through the gradient.
    proximal_step: bool = False

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """Compute Ω(w).

        Args:
            w: weights of any shape.

        Returns:
            A scalar.
        """

    @abstractmethod
    def gradient(self, w: Tensor) -> Tensor:
        """Compute ∂Ω/∂w, with a subgradient of 0 where Ω has a kink at zero.

        Args:
            w: weights of any shape.

        Returns:
            A new tensor of the shape of ``w``.
        """

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Compute argmin over u of threshold·Ω(u) + ½‖u − w‖².

        Args:
            w: weights of any shape.
            threshold: lr·λ of a step.

        Returns:
            A new tensor of the shape of ``w``.

        Raises:
            InputError: no closed form is known.
        """
        raise InputError(f"{self.name} has no proximal map here; it acts through its gradient")

    def gradients(self, weights: Tensors) -> list[Tensor]:
        """Compute ∂Ω/∂w of several tensors; overridden where one call does all of them.

        Args:
            weights: tensors of any shapes.

        Returns:
            One gradient a tensor.
        """
        return [self.gradient(w) for w in weights]

    def add_to(self, gradients: Tensors, weights: Tensors, scale: float) -> Sequence[Tensor]:
        """Compute gradients + scale·∂Ω/∂w.

        Args:
            gradients: one a tensor of weights.
            weights: tensors of any shapes.
            scale: λ, negative where the optimizer maximises.

        Returns:
            New tensors.
        """
        return torch._foreach_add(list(gradients), self.gradients(weights), alpha=scale)

    def shrink_(self, weights: Tensors, threshold: float) -> None:
        """Apply the proximal map to several tensors, in place.

        Args:
            weights: tensors of any shapes.
            threshold: lr·λ of a step.
        """
        for w in weights:
            w.copy_(self.proximal(w, threshold))

    def shares(self) -> tuple[float, float] | None:
        """Return (a, b) where mean|∂Ω/∂w| = a·mean|w| + b·(share of weights that are not 0).

        With it the size of the penalty gradient follows from statistics that are recorded anyway.

        Returns:
            The pair, or None where the size has to be measured.
        """
        return None

    @property
    def kinds(self) -> frozenset[str]:
        """The plain penalties it is made of: two penalties that share one must not act on the same weights."""
        return frozenset({self.name})

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Penalty) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class L2(Penalty):
    """Ω = ‖w‖². Strength λ is ``weight_decay`` 2λ."""

    name = "l2"

    def value(self, w: Tensor) -> Tensor:
        """Compute ‖w‖²."""
        return (w * w).sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Compute 2w."""
        return 2 * w

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Compute w/(1 + 2·threshold)."""
        return w / (1 + 2 * threshold)

    def gradients(self, weights: Tensors) -> list[Tensor]:
        """Compute 2w of several tensors in one call."""
        return list(torch._foreach_mul(list(weights), 2.0))

    def add_to(self, gradients: Tensors, weights: Tensors, scale: float) -> Sequence[Tensor]:
        """Compute gradients + 2·scale·w in one fused call."""
        # One fused add of 2λ·w: the same operation as the optimizer's own weight_decay, bit for bit.
        return torch._foreach_add(list(gradients), list(weights), alpha=2 * scale)

    def shares(self) -> tuple[float, float]:
        """Return (2, 0): mean|2w| is twice mean|w|."""
        return 2.0, 0.0


class L1(Penalty):
    """Ω = ‖w‖₁, by soft-thresholding after the update (Park et al., eq. 9)."""

    name = "l1"
    proximal_step = True

    def value(self, w: Tensor) -> Tensor:
        """Compute ‖w‖₁."""
        return w.abs().sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Compute sign(w)."""
        return w.sign()

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Apply soft-thresholding."""
        return w - w.clamp(-threshold, threshold)

    def gradients(self, weights: Tensors) -> list[Tensor]:
        """Compute sign(w) of several tensors in one call."""
        return list(torch._foreach_sign(list(weights)))

    def shrink_(self, weights: Tensors, threshold: float) -> None:
        """Apply soft-thresholding to several tensors, in place."""
        soft_threshold_(weights, threshold)

    def shares(self) -> tuple[float, float]:
        """Return (0, 1): |sign(w)| is 1 where w is not 0."""
        return 0.0, 1.0


class L1L2(Penalty):
    """Ω = l1·‖w‖₁ + l2·‖w‖² (elastic net), by its proximal map.

    Args:
        l1: share of ‖w‖₁, at least 0.
        l2: share of ‖w‖², at least 0.
    """

    proximal_step = True

    def __init__(self, l1: float = 1.0, l2: float = 1.0) -> None:
        for name, share in (("l1", l1), ("l2", l2)):
            if not (math.isfinite(share) and share >= 0):
                raise InputError(f"{name} is {share!r}; expected a finite number of at least 0")
        self.l1, self.l2 = float(l1), float(l2)
        self.name = "l1l2" if (l1, l2) == (1, 1) else f"l1l2:{number_text(l1)},{number_text(l2)}"

    def value(self, w: Tensor) -> Tensor:
        """Compute l1·‖w‖₁ + l2·‖w‖²."""
        return self.l1 * w.abs().sum() + self.l2 * (w * w).sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Compute l1·sign(w) + 2·l2·w."""
        return self.l1 * w.sign() + 2 * self.l2 * w

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Apply soft-thresholding, then shrink by 1 + 2·threshold·l2."""
        return L1().proximal(w, threshold * self.l1) / (1 + 2 * threshold * self.l2)

    def shrink_(self, weights: Tensors, threshold: float) -> None:
        """Apply the proximal map to several tensors, in place."""
        soft_threshold_(weights, threshold * self.l1)
        torch._foreach_div_(list(weights), 1 + 2 * threshold * self.l2)

    def shares(self) -> tuple[float, float]:
        """Return (2·l2, l1)."""
        return 2 * self.l2, self.l1

    @property
    def kinds(self) -> frozenset[str]:
        """Those of ``l1`` and ``l2`` whose share is not 0."""
        return frozenset(name for name in ("l1", "l2") if getattr(self, name))

    def __repr__(self) -> str:
        return f"L1L2(l1={self.l1:g}, l2={self.l2:g})"


class Lp(Penalty):
    """Ω = Σ|w|ᵖ without the root. With p = 1 it acts as `L1` does, by its proximal step.

    Args:
        p: the power, at least 1.
    """

    def __init__(self, p: float) -> None:
        if not (math.isfinite(p) and p >= 1):
            raise InputError(f"p is {p!r}; expected a finite number of at least 1")
        self.p = float(p)
        self.name = f"l{number_text(self.p)}"
        self.proximal_step = p == 1

    def value(self, w: Tensor) -> Tensor:
        """Compute Σ|w|ᵖ."""
        return w.abs().pow(self.p).sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Compute p·sign(w)·|w|ᵖ⁻¹."""
        return self.p * w.sign() * w.abs().pow(self.p - 1)

    def gradients(self, weights: Tensors) -> list[Tensor]:
        """Compute p·sign(w)·|w|ᵖ⁻¹ of several tensors in a few calls."""
        sizes = torch._foreach_abs(list(weights))
        torch._foreach_pow_(sizes, self.p - 1)
        torch._foreach_mul_(sizes, torch._foreach_sign(list(weights)))
        torch._foreach_mul_(sizes, self.p)
        return list(sizes)

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Compute the proximal map for p of 1, 2 or 3, which have closed forms."""
        if self.p in (1, 2):
            return (L1() if self.p == 1 else L2()).proximal(w, threshold)
        if self.p == 3:  # the positive root of 3·t·u² + u − |w| = 0, in the form that does not cancel
            size = w.abs()
            return w.sign() * 2 * size / (1 + (1 + 12 * threshold * size).sqrt())
        return super().proximal(w, threshold)

    def __repr__(self) -> str:
        return f"Lp({self.p:g})"


class LInf(Penalty):
    """Ω = max|w| per tensor; the entries that share the maximum share the subgradient equally."""

    name = "linf"

    def value(self, w: Tensor) -> Tensor:
        """Compute max|w|, 0 of an empty tensor."""
        return w.abs().max() if w.numel() else w.sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Compute sign(w)/k at the k entries with the maximum, 0 elsewhere."""
        if not w.numel():
            return torch.zeros_like(w)
        size = w.abs()
        at_maximum = (size == size.max()).to(w.dtype)
        return w.sign() * at_maximum / at_maximum.sum()

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Cut all entries to one height: w less its projection onto the L1 ball of radius ``threshold`` (Moreau)."""
        size = w.abs().flatten()
        if size.sum() <= threshold:
            return torch.zeros_like(w)
        ordered = size.sort(descending=True).values
        heights = (ordered.cumsum(0) - threshold) / torch.arange(1, len(ordered) + 1, device=w.device)
        height = heights[(ordered >= heights).nonzero().max()]
        return w.clamp(-height, height)


class L0(Penalty):
    """Ω = number of weights that are not 0. It has no gradient: for counting, and by its proximal map alone."""

    name = "l0"

    def value(self, w: Tensor) -> Tensor:
        """Count the weights that are not 0."""
        return (w != 0).sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Raise `InputError`: there is no gradient."""
        raise InputError("l0 counts weights and has no gradient; take l1 for exact zeros, l0 for counting them")

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Apply hard thresholding: what is smaller than √(2·threshold) becomes 0."""
        return torch.where(w.abs() > math.sqrt(2 * threshold), w, torch.zeros_like(w))


def soft_threshold_(weights: Tensors, threshold: float) -> None:
    """Subtract clamp(w, −t, t) from several tensors, in place: exact zeros below the threshold."""
    held = torch._foreach_clamp_max(list(weights), threshold)
    torch._foreach_clamp_min_(held, -threshold)
    torch._foreach_sub_(list(weights), held)
