"""Which penalties act on which parameters of an optimizer right now, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from gradscope.regularizers.attach import Regularization, ScheduledDecay, attached_to, is_decoupled
from gradscope.regularizers.penalties import L2, Penalty


@dataclass(frozen=True)
class Source:
    """One penalty on some parameters of one parameter group.

    ``strength()`` is λ at the coming step, in the convention of the penalty (L2: half the weight
    decay). ``acts``: ``coupled`` (through the optimizer's gradient), ``decoupled``, ``gradient``,
    ``proximal`` or ``loss``. ``intended``: somebody has set this penalty, even if a schedule holds it back now.
    """

    penalty: Penalty
    group: int
    parameters: frozenset[int]
    strength: Callable[[], float]
    acts: str
    intended: bool


def penalty_sources(optimizer: Optimizer) -> list[Source]:
    """Every penalty on this optimizer: its own ``weight_decay`` and what was attached to it."""
    handles = [h for h in attached_to(optimizer) if not h.suspended]
    own = [h for h in handles if isinstance(h, Regularization)]
    factors = [h for h in handles if isinstance(h, ScheduledDecay)]
    sources = []
    for index, group in enumerate(optimizer.param_groups):
        # A frozen parameter gets neither a gradient nor a decay: optimizers pass it over.
        members = frozenset(id(p) for p in group["params"] if p.requires_grad)
        for handle in own:
            if mine := members & handle.parameters:
                acts = _acts(handle)
                sources.append(Source(handle.penalty, index, mine, handle.now, acts, True))
        replaced = frozenset().union(*(h.parameters for h in own if h.replaces_decay))
        if "weight_decay" in group and (rest := members - replaced):
            acts = "decoupled" if is_decoupled(optimizer, group) else "coupled"
            sources.append(
                Source(L2(), index, rest, _decay(optimizer, index, factors), acts, bool(group["weight_decay"]))
            )
    return sources


def _acts(handle: Regularization) -> str:
    if handle.penalty.proximal_step:
        return "proximal"
    return "decoupled" if handle.decoupled else "gradient"


def _decay(optimizer: Optimizer, index: int, factors: list[ScheduledDecay]) -> Callable[[], float]:
    def strength() -> float:
        value = float(optimizer.param_groups[index]["weight_decay"]) / 2
        for factor in factors:
            value *= factor.now()
        return value

    return strength
