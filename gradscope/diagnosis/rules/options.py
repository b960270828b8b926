"""The shape of an entry of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gradscope.diagnosis.rules.columns import Columns
from gradscope.diagnosis.rules.finding import Symptom
from gradscope.run_info import RunInfo

Look = Callable[[Columns, RunInfo, Mapping[str, float]], list[Symptom]]


@dataclass(frozen=True)
class Option:
    """A number that a rule can be given. ``source``: where its default comes from."""

    default: float
    meaning: str
    source: str


@dataclass(frozen=True)
class Need:
    """What has to be recorded: one of these. ``without``: what cannot be said otherwise, and what to do about it."""

    names: tuple[str, ...]
    without: str

    def met(self, seen: set[str], facts: RunInfo) -> bool:
        """Whether a record that holds these names is enough."""
        if self.names == ("module_types",):
            return bool(facts.module_types)
        if self.names == ("baseline_loss",):
            return facts.sure_baseline > 0
        return bool(seen & set(self.names))


@dataclass(frozen=True)
class Rule:
    """``look``: the pure function. ``warm_up``: rows at the start that do not count. ``patience``: samples one after
    the other that have to show it. Both are options too, so that they can be set.
    """

    name: str
    look: Look
    options: Mapping[str, Option]
    needs: tuple[Need, ...]
    sources: str
    samples: str = "rows"
