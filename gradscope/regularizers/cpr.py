"""Constrained parameter regularization at an optimizer's step (Franke et al., NeurIPS 2024, arXiv 2311.09058).

After the update, for each tensor: λ ← max(0, λ + μ/n·(‖w‖² − κ)), then w ← w − 2λ·w, with n its number of
weights. All of it stays on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.parameter_groups import number
from gradscope.regularizers.constrained import CPR
from gradscope.regularizers.hooks import Attached
from gradscope.regularizers.penalties import L2


@dataclass
class Bounds:
    """State of CPR, each a tensor [T] with one number for each of T penalised tensors.

    Attributes:
        multiplier: λ.
        bound: κ on ‖w‖²; ∞ until it is set.
        average: moving average of ‖w‖.
        last: that average at the last look for an inflection point.
        growth: relative growth of the average at that look.
    """

    multiplier: Tensor
    bound: Tensor
    average: Tensor
    last: Tensor
    growth: Tensor

    @classmethod
    def of(cls, count: int, device: torch.device) -> Bounds:
        """Create the state of ``count`` tensors before the first step."""
        zero = torch.zeros(count, device=device)
        return cls(zero, zero + math.inf, zero, zero, zero)


def constrain(rule: CPR, state: Bounds, step: int, squares: Tensor, numel: Tensor) -> Bounds:
    """Compute the state of CPR after the update of one step.

    A bound that is set in this step acts from the next one on.

    Args:
        rule: the schedule, with its constants.
        state: the state before.
        step: number of the step, from 1.
        squares: ‖w‖² of each tensor, [T].
        numel: weights of each tensor, [T].

    Returns:
        The state after the step.
    """
    grown = state.multiplier + rule.strength / numel * (squares - state.bound)
    set_before = torch.isfinite(state.bound)
    new = Bounds(**{f.name: getattr(state, f.name) for f in fields(state)})
    new.multiplier = torch.where(set_before, grown.clamp_min(0), state.multiplier)
    if rule.warm_start is not None:
        if step == rule.warm_start:
            new.bound = squares.clone()
        return new
    size = squares.sqrt()
    new.average = size.clone() if step < rule.every else rule.smooth * state.average + (1 - rule.smooth) * size
    if step > rule.every and step % rule.every == 0:
        # The growth has passed its maximum: an inflection point. A growth near 0 is noise.
        growth = (new.average - state.last) / new.average
        if step > 3 * rule.every:
            inflected = (state.growth > growth) & (growth > 0.01) & ~set_before
            new.bound = torch.where(inflected, squares, state.bound)
        new.last = new.average.clone()
        new.growth = growth if step > 2 * rule.every else state.growth
    return new


class Constrained(Attached):
    """CPR on some parameters of one optimizer, as `regularize` returns it for a `CPR` schedule."""

    schedule: CPR

    def __init__(self, optimizer: Optimizer, schedule: CPR, parameters: Sequence[Tensor]) -> None:
        super().__init__(optimizer, schedule, parameters)
        self.penalty = L2()
        device = self._chosen[0].device
        self.bounds = Bounds.of(len(self._chosen), device)
        self._numel = torch.tensor([max(1.0, p.numel()) for p in self._chosen], device=device)
        self._index = {id(p): i for i, p in enumerate(self._chosen)}

    def now(self, group: int = 0) -> float:
        """Compute the L2 strength that the multipliers amount to: their mean over the tensors, divided by the rate."""
        optimizer = self._optimizer()
        rate = number(optimizer.param_groups[group].get("lr")) if optimizer is not None else math.nan
        return 0.0 if self.suspended or rate == 0 else float(self.bounds.multiplier.mean()) / rate

    def pulls(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Compute ∂Ω/∂w of each parameter, weighted by its multiplier over the mean of all."""
        mean = self.bounds.multiplier.mean()
        weights = torch.where(mean > 0, self.bounds.multiplier / mean, torch.ones_like(self._numel))
        return [2 * weights[self._index[id(p)]] * p for p in parameters]

    @torch.no_grad()
    def _finish(self, optimizer: Optimizer) -> None:
        if self.suspended:
            return
        squares = torch.stack(torch._foreach_norm(self._chosen)).square()
        new = constrain(self.schedule, self.bounds, self.step + 1, squares, self._numel)
        found_inf = getattr(optimizer, "found_inf", None)
        kept = 1 - 2 * new.multiplier
        if found_inf is not None:  # a fused optimizer that skipped its update: nothing happens here either
            for field in fields(new):
                old = getattr(self.bounds, field.name)
                setattr(new, field.name, torch.where(found_inf > 0, old, getattr(new, field.name)))
            kept = torch.where(found_inf > 0, torch.ones_like(kept), kept)
        self.bounds = new
        torch._foreach_mul_(self._chosen, list(kept.unbind()))

    def state_dict(self) -> dict[str, Any]:
        """Return counter, schedule and bounds, for a checkpoint."""
        return {
            **super().state_dict(),
            "bounds": {f.name: getattr(self.bounds, f.name).clone() for f in fields(Bounds)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        device = self._numel.device
        self.bounds = Bounds(**{name: value.to(device) for name, value in state["bounds"].items()})

    def __repr__(self) -> str:
        return f"<{self.schedule.text} on {len(self.parameters)} parameters>"
