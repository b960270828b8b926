"""Parameter groups as they are now: replaced by ``load_state_dict``, added or removed, with whatever they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import is_
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradscope.types import InputError

Group = dict[str, Any]

#: Place of a group that was not there when the groups were first looked at.
LATER = 1 << 30


def number(value: Any) -> float:
    """Convert a hyper-parameter to a number, NaN for None and for what is none; waits for the device of a tensor."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return math.nan
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        return math.nan


def weight_decay(group: Group) -> float:
    """Return the ``weight_decay`` of a group: 0 where it has none, NaN where that is no number."""
    value = group.get("weight_decay")
    return 0.0 if value is None else number(value)


def learning_rate(group: Group, who: str) -> float:
    """Return the learning rate of a group, for what cannot act without one; raise `InputError` where there is none."""
    rate = number(group.get("lr"))
    if math.isnan(rate):
        raise InputError(f"{who} goes by the learning rate, and the optimizer's lr is {group.get('lr')!r}")
    return rate


def _same(now: list[Any], before: list[Any]) -> bool:
    """Compare lists of tensors: `==` of lists asks for identity, and only where it differs for more."""
    try:
        return bool(now == before)
    except RuntimeError:  # several numbers were compared
        return False


class Groups:
    """Parameter groups that some optimizers have at first, found again by their parameters when they are replaced.

    Attributes:
        counts: how many groups each optimizer has at first.
        places: per optimizer, for each group that it has now, its number among all the first ones, or `LATER`.
        generation: how often ``places`` has changed.
        left: ids of the parameters that were in these groups and are in none of their optimizer's any more.
        joined: how many parameters have come into the groups that were there.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = list(optimizers)
        self._seen = [group for o in optimizers for group in o.param_groups]
        self._members = [list(group["params"]) for group in self._seen]
        self._now: list[Group | None] = list(self._seen)
        self.counts = [len(o.param_groups) for o in optimizers]
        starts = [sum(self.counts[:n]) for n in range(len(self.counts))]
        self.places = [list(range(start, start + n)) for start, n in zip(starts, self.counts, strict=True)]
        self._of = [
            {id(p): place for place, group in zip(places, o.param_groups, strict=True) for p in group["params"]}
            for o, places in zip(optimizers, self.places, strict=True)
        ]
        self.generation = 0
        self.left: frozenset[int] = frozenset()
        self.joined = 0

    def now(self) -> list[Group | None]:
        """Return the first groups as they are now, None for those that are gone."""
        current = [group for o in self._optimizers for group in o.param_groups]
        seen = self._seen
        if len(current) != len(seen) or not all(map(is_, current, seen)):
            self._find(current)
        elif not _same([group["params"] for group in current], self._members):
            self._count(current)
        return self._now

    def _find(self, current: list[Group]) -> None:
        self._seen, self._now = current, [None] * len(self._now)
        places = [
            [self._place(number, index, group) for index, group in enumerate(optimizer.param_groups)]
            for number, optimizer in enumerate(self._optimizers)
        ]
        if places != self.places:
            self.places, self.generation = places, self.generation + 1
        self._count(current)

    def _count(self, current: list[Group]) -> None:
        """Count the parameters that have left and that have joined."""
        self._members = [list(group["params"]) for group in current]
        left: set[int] = set()
        self.joined = 0
        for optimizer, known, places in zip(self._optimizers, self._of, self.places, strict=True):
            left |= known.keys() - {id(p) for group in optimizer.param_groups for p in group["params"]}
            for place, group in zip(places, optimizer.param_groups, strict=True):
                self.joined += sum(id(p) not in known for p in group["params"]) if place != LATER else 0
        self.left = frozenset(left)

    def _place(self, number: int, index: int, group: Group) -> int:
        known = self._of[number]
        place = next((known[id(p)] for p in group["params"] if id(p) in known), LATER)
        if not group["params"] and index < self.counts[number]:
            place = sum(self.counts[:number]) + index
        if place == LATER or self._now[place] is not None:
            return LATER
        self._now[place] = group
        return place
