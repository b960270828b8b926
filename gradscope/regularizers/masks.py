"""Sparse gradients ("Adapting Regularization with Learning Rate", section 2.2): a fixed share of the weights rests.

The pattern is kept from step to step and drawn anew only when the degree of sparsity changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.optimizers.wrapped import the_one
from gradscope.regularizers.hooks import Attached
from gradscope.regularizers.schedule import Schedule, scheduled
from gradscope.regularizers.schedules import parse_schedule
from gradscope.torch_utils.selection import SelectTensors, selected_parameters
from gradscope.types import InputError

#: Table 1 of the document as degrees by epoch, counted from 0: sparse in the first annealing only.
SCHEMES = {
    "sch21": "table:0=0,100=0.5,250=0",
    "sch22": "table:0=0,100=0.8,250=0",
    "sch23": "table:0=0,100=0.3,250=0",
}


class GradientMask(Attached):
    """Mask that sets a share of the gradient to 0 for the update; made by `mask_gradients`. ``.grad`` stays whole."""

    penalises = False

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        parameters: list[Tensor],
        seed: int,
        steps_per_epoch: int | None,
    ) -> None:
        super().__init__(optimizer, schedule, parameters, steps_per_epoch=steps_per_epoch)
        self.seed = seed
        self.drawn = 0
        self.degree = 0.0
        self._masks: dict[int, Tensor] = {}

    @torch.no_grad()
    def _act(self, optimizer: Optimizer) -> None:
        degree = self.now()
        if degree > 1:
            raise InputError(f"the degree of sparsity is {degree:g}; expected a share from 0 to 1")
        if degree != self.degree:
            self.degree, self.drawn = degree, self.drawn + 1
            self._draw()
        for members in self._members(optimizer) if degree else ():
            mine = [p for p in members if p.grad is not None]
            gradients: list[Tensor] = [p.grad for p in mine]  # type: ignore[misc]
            if mine:
                self._show(mine, gradients, torch._foreach_mul(gradients, [self._masks[id(p)] for p in mine]))

    def _draw(self) -> None:
        """Draw the pattern from the seed and from how many were drawn before: nothing else has to be saved."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.drawn)
        for p in self._chosen:
            mask = torch.ones(p.numel())
            mask[torch.randperm(p.numel(), generator=generator)[: round(self.degree * p.numel())]] = 0
            self._masks[id(p)] = mask.view(p.shape).to(p)

    def state_dict(self) -> dict[str, Any]:
        """Return counter, schedule, number of patterns drawn and degree, for a checkpoint."""
        return {**super().state_dict(), "drawn": self.drawn, "degree": self.degree}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, and the pattern."""
        super().load_state_dict(state)
        self.drawn, self.degree = state["drawn"], state["degree"]
        self._draw()


def mask_gradients(
    optimizer: Optimizer,
    schedule: Schedule | float | str,
    select: SelectTensors | None = None,
    *,
    model: nn.Module | None = None,
    seed: int = 0,
    steps_per_epoch: int | None = None,
) -> GradientMask:
    """Keep a share of the weights from being updated ("Adapting Regularization with Learning Rate", section 2.2).

    The pattern is the same on every rank. A ``weight_decay`` of the optimizer still moves the masked weights, and so
    does momentum gathered before.

    Args:
        optimizer: as for `regularize`.
        schedule: the share over time, from 0 to 1; ``"sch21"``, ``"sch22"`` and ``"sch23"`` are those of Table 1.
        select: which parameters, as for `regularize`.
        model: where names and modules are looked up, as for `regularize`.
        seed: of the pattern.
        steps_per_epoch: lets a schedule count epochs where no recording tells them.

    Returns:
        The handle, as `regularize` returns it.

    Raises:
        InputError: nothing is selected, or the schedule sets a strength and not a share.

    Examples:
        >>> mask = mask_gradients(optimizer, Constant(0.5))
    """
    if isinstance(schedule, str):
        schedule = parse_schedule(SCHEMES.get(schedule.lower(), schedule))
    schedule = scheduled(schedule)
    if schedule.stands != "anywhere":
        raise InputError(f"the schedule {schedule.text} sets a strength, not a degree of sparsity")
    optimizer = the_one(optimizer)
    return GradientMask(optimizer, schedule, selected_parameters(optimizer, select, model), seed, steps_per_epoch)
