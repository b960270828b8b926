"""Entry of the catalogue of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gradscope.diagnosis.rules.columns import Columns
from gradscope.diagnosis.rules.finding import Symptom
from gradscope.run_info import RunInfo

Look = Callable[[Columns, RunInfo, Mapping[str, float]], list[Symptom]]


@dataclass(frozen=True)
class Option:
    """Number that a rule can be given.

    Attributes:
        default: its value.
        meaning: what it is.
        source: where its default comes from.
    """

    default: float
    meaning: str
    source: str


@dataclass(frozen=True)
class Need:
    """What has to be recorded.

    Attributes:
        names: one of these.
        without: what cannot be said otherwise, and what to do about it.
    """

    names: tuple[str, ...]
    without: str

    def met(self, seen: set[str], facts: RunInfo) -> bool:
        """Return whether a record that holds these names is enough."""
        if self.names == ("module_types",):
            return bool(facts.module_types)
        if self.names == ("baseline_loss",):
            return facts.sure_baseline > 0
        return bool(seen & set(self.names))


@dataclass(frozen=True)
class Rule:
    """Rule beside the verdict.

    Attributes:
        name: of the rule.
        look: the pure function.
        options: numbers that can be set, ``warm_up`` (rows at the start that do not count) and ``patience`` (samples
            one after the other that have to show it) among them.
        needs: what has to be recorded.
        sources: where the rule comes from.
        samples: what ``patience`` counts.
    """

    name: str
    look: Look
    options: Mapping[str, Option]
    needs: tuple[Need, ...]
    sources: str
    samples: str = "rows"
