"""Cadences of recording: every n steps, in windows, or densely at the start and sparsely later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gradscope import checks
from gradscope.types import InputError


class Cadence(Protocol):
    """Decision for every optimizer step, counted from 0, whether it is recorded."""

    def at(self, step: int) -> bool:
        """Return whether this step is recorded."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Every:
    """Cadence of every n-th step, from the first on.

    Attributes:
        n: steps from one recorded step to the next.
    """

    n: int = 1

    def __post_init__(self) -> None:
        checks.positive_int(self.n, "every")

    def at(self, step: int) -> bool:
        """Return whether this step is recorded."""
        return step % self.n == 0

    def __str__(self) -> str:
        return f"every {self.n}"


@dataclass(frozen=True)
class DenseStart:
    """Cadence of each of the first ``dense`` steps, then every ``then``-th: failures begin early.

    Attributes:
        dense: how many of the first steps are all recorded.
        then: steps from one recorded step to the next, later.
    """

    dense: int
    then: int

    def __post_init__(self) -> None:
        checks.positive_int(self.dense, "dense")
        checks.positive_int(self.then, "then")

    def at(self, step: int) -> bool:
        """Return whether this step is recorded."""
        return step < self.dense or step % self.then == 0

    def __str__(self) -> str:
        return f"each of the first {self.dense}, then every {self.then}"


class Windows:
    """Cadence of each step of some half-open windows: ``Windows((0, 100), (5000, 5100))``.

    Args:
        spans: first step of each window, and the first one after it.
    """

    def __init__(self, *spans: tuple[int, int]) -> None:
        if not spans or any(not 0 <= start < stop for start, stop in spans):
            raise InputError(f"windows are {spans!r}; expected pairs such as (0, 100) with start < stop")
        self.spans = spans

    def at(self, step: int) -> bool:
        """Return whether this step is recorded."""
        return any(start <= step < stop for start, stop in self.spans)

    def __str__(self) -> str:
        return "windows " + ", ".join(f"{start}-{stop}" for start, stop in self.spans)


@dataclass(frozen=True)
class BySize:
    """One cadence for models of up to ``few`` recorded tensors, another for larger ones.

    Attributes:
        few: tensors of the largest model that counts as small.
        up_to: cadence of small models.
        beyond: cadence of larger ones.
    """

    few: int
    up_to: Cadence
    beyond: Cadence

    def of(self, tensors: int) -> Cadence:
        """Return the cadence of a model of so many tensors."""
        return self.up_to if tensors <= self.few else self.beyond


#: What a cadence can be given for. ``rows`` holds for all of them: a quantity is seen in recorded rows only.
KINDS = ("rows", "activations", "updates", "histograms")

Given = int | Cadence | Mapping[str, "int | Cadence"]


def cadences(every: Given, preset: Mapping[str, Cadence | BySize]) -> dict[str, Cadence | BySize]:
    """Return the cadence of each kind: what the caller gave, and the preset's for the rest."""
    given = every if isinstance(every, Mapping) else {"rows": every}
    unknown = [kind for kind in given if kind not in KINDS]
    if unknown:
        raise InputError(f"every={{{unknown[0]!r}: …}} names no kind of quantity; expected one of {', '.join(KINDS)}")
    found = {kind: _cadence(value) for kind, value in given.items()}
    return {kind: found.get(kind, preset.get(kind, Every(1))) for kind in KINDS}


def of_size(every: Mapping[str, Cadence | BySize], tensors: int) -> dict[str, Cadence]:
    """Return the cadences of a recording of so many tensors."""
    return {kind: one.of(tensors) if isinstance(one, BySize) else one for kind, one in every.items()}


def _cadence(value: int | Cadence) -> Cadence:
    return value if hasattr(value, "at") else Every(checks.positive_int(value, "every"))
