"""What a rule sees in some rows, and what it says once that has lasted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Layers named in a line of text; the finding itself holds all.
NAMED = 3


@dataclass(frozen=True)
class Symptom:
    """What a rule sees in N rows of L layers.

    Attributes:
        kind: of symptom, a word.
        shows: 1 where it is there, 0 where it is not, NaN where the row says nothing of it, [N, L].
        values: the numbers it rests on, [N, L].
        layers: L names, ("",) for the whole network.
        text: what it is, in words.
        quantity: what the values are called.
        limit: beyond which they show it.
        suggestion: what to do.
        at_once: true without patience.
    """

    kind: str
    shows: Array
    values: Array
    layers: tuple[str, ...]
    text: str
    quantity: str
    limit: float
    suggestion: str
    at_once: bool = False


@dataclass(frozen=True)
class Finding:
    """Symptom that has lasted for the patience of its rule, in layers that it had not been found in before.

    Attributes:
        rule: its name.
        kind: of symptom.
        layers: names, none for the whole network.
        since_step: the first step of that time.
        found_step: its last, at which a live run is told.
        numbers: the quantity it rests on (of the layer where it is largest), and its limit.
        text: what it is, in words.
        suggestion: what to do.
        over_step: since when it has shown in none of these layers, for as long as it takes to find it; None while it
            does.
        up_to: of findings that were joined, the largest of each number; ``numbers`` are the smallest.
    """

    rule: str
    kind: str
    layers: tuple[str, ...]
    since_step: int
    found_step: int
    numbers: dict[str, float] = field(default_factory=dict)
    text: str = ""
    suggestion: str = ""
    over_step: int | None = None
    up_to: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as ``gradscope diagnose --json`` prints them."""
        found = {**asdict(self), "layers": list(self.layers)}
        del found["up_to"]
        return found

    @property
    def where(self) -> str:
        """The layers in a few words; empty where it concerns the whole network."""
        more = len(self.layers) - NAMED
        return ", ".join(self.layers[:NAMED]) + (f" and {more} more" if more > 0 else "")

    @property
    def sentence(self) -> str:
        """The finding in one line, without what to do."""
        numbers = ", ".join(f"{name} {self._range(name, value)}" for name, value in self.numbers.items())
        place = f" in {self.where}" if self.layers else ""
        first = " in the first of them" if self.up_to else ""
        return f"{self.rule}: {self.text}{place} since step {self.since_step}{first} ({numbers})"

    def _range(self, name: str, low: float) -> str:
        texts = dict.fromkeys((f"{low:.3g}", f"{self.up_to.get(name, low):.3g}"))
        return " to ".join(texts)

    @property
    def now(self) -> str:
        """The finding in one line, and whether it is over."""
        return self.sentence + ("" if self.over_step is None else f"; over since step {self.over_step}")


def together(findings: Iterable[Finding]) -> list[Finding]:
    """Join findings of one rule and kind, layer after layer, into one each: what a person reads of a large model.

    Those that are over stay apart from those that are not.

    Args:
        findings: in the order in which they were found.

    Returns:
        One of each kind, in the order of the first of them.
    """
    kinds: dict[tuple[str, str, str, bool], list[Finding]] = {}
    for one in findings:
        kinds.setdefault((one.rule, one.kind, one.text, one.over_step is None), []).append(one)
    return [each[0] if len(each) == 1 else _joined(each) for each in kinds.values()]


def _joined(each: list[Finding]) -> Finding:
    first = each[0]
    seen = {name: [one.numbers.get(name, value) for one in each] for name, value in first.numbers.items()}
    return replace(
        first,
        layers=tuple(dict.fromkeys(name for one in each for name in one.layers)),
        numbers={name: min(values) for name, values in seen.items()},
        up_to={name: max(values) for name, values in seen.items()},
        since_step=min(one.since_step for one in each),
        found_step=min(one.found_step for one in each),
        over_step=None if first.over_step is None else max(one.over_step or 0 for one in each),
    )


@dataclass(frozen=True)
class NotChecked:
    """Rule, or a part of one, that had nothing to look at.

    Attributes:
        rule: its name.
        why: what is missing, and what to do about it.
    """

    rule: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """Return plain values, as ``gradscope diagnose --json`` prints them."""
        return asdict(self)
