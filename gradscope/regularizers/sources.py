"""List which penalties act on which parameters of an optimizer right now, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.decay import Decay, decay_of
from gradscope.optimizers.parameter_groups import number, weight_decay
from gradscope.regularizers.activity import ActivityRegularization
from gradscope.regularizers.attach import Regularization, ScheduledDecay
from gradscope.regularizers.cpr import Constrained
from gradscope.regularizers.hooks import Attached, attached_to
from gradscope.regularizers.penalties import L2
from gradscope.regularizers.term import TermPenalty


@dataclass(frozen=True)
class PenaltySource:
    """One penalty on some parameters of one parameter group.

    Attributes:
        name: name of the penalty.
        group: index of the parameter group.
        parameters: ids of the parameters.
        strength: function that returns λ at the coming step, in the convention of the penalty (L2: half the weight
            decay).
        acts: ``coupled`` (through the optimizer's gradient), ``decoupled``, ``unknown``, ``gradient``, ``proximal``,
            ``constraint``, ``activity`` or ``loss``.
        intended: somebody has set this penalty, even if a schedule holds it back now.
        gradients: function that returns ∂Ω/∂w at strength 1.
        shares: as `Penalty.shares`, None where the size of the gradient has to be measured.
        note: how its decay is known, for the record.
    """

    name: str
    group: int
    parameters: frozenset[int]
    strength: Callable[[], float]
    acts: str
    intended: bool
    gradients: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    shares: tuple[float, float] | None
    note: str = ""


def penalty_sources(optimizer: Optimizer) -> list[PenaltySource]:
    """List every penalty on this optimizer: its own ``weight_decay`` and what was attached to it."""
    handles = [h for h in attached_to(optimizer) if h.penalises and not h.suspended and not isinstance(h, TermPenalty)]
    factors = [h for h in handles if isinstance(h, ScheduledDecay)]
    sources = []
    for index, group in enumerate(optimizer.param_groups):
        # A frozen parameter gets neither a gradient nor a decay: optimizers pass it over.
        members = frozenset(id(p) for p in group["params"] if p.requires_grad)
        sources += [_attached(h, index, mine) for h in handles if h not in factors and (mine := members & h.parameters)]
        replaced = frozenset().union(
            *(h.parameters for h in handles if isinstance(h, Regularization) and h.replaces_decay)
        )
        if group.get("weight_decay") is not None and (rest := members - replaced):
            how = decay_of(optimizer, group)
            decay = _decay(optimizer, index, factors, how)
            own = bool(weight_decay(group))
            l2 = L2()
            grads, shares = l2.gradients, l2.shares()
            sources.append(PenaltySource("l2", index, rest, decay, how.acts, own, grads, shares, _note(how)))
    return sources


def _attached(handle: Attached, index: int, mine: frozenset[int]) -> PenaltySource:
    def strength() -> float:
        handle.settle()
        return handle.now(index)

    if isinstance(handle, Constrained):
        return PenaltySource("l2", index, mine, strength, "constraint", True, handle.pulls, None)
    if isinstance(handle, ActivityRegularization):
        return PenaltySource(handle.name, index, mine, strength, "activity", True, handle.pulls, None)
    assert isinstance(handle, Regularization)
    penalty = handle.penalty
    acts = "proximal" if penalty.proximal_step else "decoupled" if handle.decoupled else "gradient"
    return PenaltySource(penalty.name, index, mine, strength, acts, True, penalty.gradients, penalty.shares())


def _note(how: Decay) -> str:
    if how.acts == "unknown":
        return f"strength is half of weight_decay; how that acts is not known, by {how.known_by}"
    if not how.times_rate:
        return "a step takes the share weight_decay, whatever the learning rate: strength is half of their ratio"
    return "" if how.known_by == "torch" else f"known by: {how.known_by}"


def _decay(optimizer: Optimizer, index: int, factors: list[ScheduledDecay], how: Decay) -> Callable[[], float]:
    def strength() -> float:
        if index >= len(optimizer.param_groups):
            return 0.0
        group = optimizer.param_groups[index]
        value = weight_decay(group) / 2
        if value and not how.times_rate:
            rate = number(group.get("lr"))
            value = value / rate if rate else math.nan
        for factor in factors:
            factor.settle()
            value *= factor.now(index)
        return value

    return strength


def joint_gradients(
    sources: Sequence[PenaltySource],
    columns: Sequence[Sequence[int]],
    strengths: Sequence[float],
    weights: Sequence[Tensor],
    where: Sequence[int],
) -> list[Tensor]:
    """Sum λ·∂Ω/∂w over the sources for the weights ``where``; ``columns``: which weights each source is on."""
    total = {i: torch.zeros_like(weights[i]) for i in where}
    for source, mine, strength in zip(sources, columns, strengths, strict=True):
        here = [i for i in mine if i in total]
        if here and strength:
            for i, gradient in zip(here, source.gradients([weights[i] for i in here]), strict=True):
                total[i] = total[i].add(gradient, alpha=strength)
    return list(total.values())
