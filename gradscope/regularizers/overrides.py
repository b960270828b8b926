"""What the environment asks of a script's penalty: another strength, or a schedule over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from gradscope.regularizers.attach import (
    Regularization,
    ScheduledDecay,
    _Attached,
    attached_to,
    is_decoupled,
)
from gradscope.regularizers.penalties import L2, parse_penalty
from gradscope.regularizers.schedules import Schedule, parse_schedule
from gradscope.types import InputError


class _Times(Schedule):
    """One schedule multiplied, over time, by another of strength 1."""

    def __init__(self, schedule: Schedule, factor: Schedule) -> None:
        super().__init__(schedule.strength)
        self.parts = (schedule, factor)
        self.needs_epochs = schedule.needs_epochs or factor.needs_epochs
        self.needs_record = schedule.needs_record or factor.needs_record

    def factor(self, step: int, epoch: int) -> float:
        first, second = self.parts
        return first.factor(step, epoch) * second.factor(step, epoch)

    def active_phase(self, step: int) -> None:
        for part in self.parts:
            part.active_phase(step)

    @property
    def text(self) -> str:
        return "*".join(part.text for part in self.parts)


def obey(
    optimizers: Sequence[Optimizer], strength: float | None, penalty: str | None, schedule: str | None
) -> list[_Attached]:
    """Put the asked-for strength or schedule on these optimizers; returns what was attached.

    A strength replaces the script's penalty on parameters with more than one dimension. A schedule
    alone multiplies whatever penalty the script set.
    """
    if strength is not None:
        return _replace(optimizers, strength, penalty or "l2", schedule or "constant")
    if schedule is None:
        return []
    made: list[_Attached] = []
    for optimizer in optimizers:
        for handle in attached_to(optimizer):
            handle.schedule = _Times(handle.schedule, parse_schedule(schedule))
        if any(group.get("weight_decay", 0.0) for group in optimizer.param_groups):
            made.append(ScheduledDecay(optimizer, parse_schedule(schedule)))
    return made


def _replace(optimizers: Sequence[Optimizer], strength: float, penalty: str, schedule: str) -> list[_Attached]:
    kind = parse_penalty(penalty)
    plan = [(o, [p for g in o.param_groups for p in g["params"] if p.ndim > 1]) for o in optimizers]
    if not any(parameters for _, parameters in plan):
        raise InputError("no parameter has more than one dimension, so GRADSCOPE_STRENGTH has nothing to act on")
    made: list[_Attached] = []
    for optimizer, parameters in plan:
        for handle in attached_to(optimizer):
            handle.detach()
        if parameters:
            decoupled = isinstance(kind, L2) and is_decoupled(optimizer, optimizer.param_groups[0])
            made.append(
                Regularization(
                    optimizer, kind, parse_schedule(schedule, strength), parameters,
                    replaces_decay=True, decoupled=decoupled,
                )
            )  # fmt: skip
    return made


def plain_settings(group: dict[str, object]) -> dict[str, object]:
    """The hyper-parameters of a parameter group that a file can hold."""
    kept: dict[str, object] = {}
    for name, value in group.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            kept[name] = float(value)
        elif isinstance(value, str | int | float | bool | tuple | list) and name not in (
            "params",
            "param_names",
        ):
            kept[name] = value
    return kept
