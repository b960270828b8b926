"""Gradients of a penalty that is differentiated apart, gathered pass by pass as they stand in ``.grad``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Gathered:
    """Sums over the backward passes of a step; those whose gradients were thrown away since are left out.

    Attributes:
        sums: gradients by identity of the parameter.
        value: of the penalty.
        passes: how many there are.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all passes."""
        self.sums: dict[int, Tensor] = {}
        self.value: Tensor | float = 0.0
        self.passes: Tensor | int = 0

    @property
    def divisor(self) -> Tensor | int:
        """What makes a mean over the passes of a sum, 1 where there are none; no device is waited for."""
        return self.passes if isinstance(self.passes, Tensor) else max(1, self.passes)

    @torch.no_grad()
    def add(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], value: Tensor | float = 0.0
    ) -> None:
        """Add a pass that is about to add to ``.grad``.

        Loops throw gradients away by None or by zeros in their place. The zeros are asked for on their device, which is
        not waited for.

        Args:
            parameters: any.
            gradients: of the penalty, one a parameter, or None.
            value: of the penalty.
        """
        there = [p.grad for p, g in zip(parameters, gradients, strict=True) if g is not None and p.grad is not None]
        if not there:
            self.clear()
        elif self.sums:
            parts = [g._values() if g.is_sparse else getattr(g, "_local_tensor", g) for g in there]
            self._keep_if(torch.stack([part.any().to(parts[0].device) for part in parts]).any())
        self.value, self.passes = self.value + value, self.passes + 1
        for p, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                self.sums[id(p)] = self.sums[id(p)] + gradient if id(p) in self.sums else gradient

    def _keep_if(self, stand: Tensor) -> None:
        def kept(number: Tensor | float) -> Tensor:
            tensor = torch.as_tensor(number, device=None if isinstance(number, Tensor) else stand.device)
            return torch.where(stand.to(tensor.device), tensor, torch.zeros_like(tensor))  # what was NaN goes, too

        self.sums = {identity: kept(total) for identity, total in self.sums.items()}
        self.value, self.passes = kept(self.value), kept(self.passes)
