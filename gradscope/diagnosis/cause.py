"""What a cause of a failure is, and when the record tells one from the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PENALTY, UNKNOWN = "penalty", "not in the record"
UNDECLARED = "a penalty that is not declared"
#: Causes with which a run may learn late: no verdict before its end.
SLOW = ("input scale", "learning rate too low")
#: What tells whether it is the penalty, where the record does not.
EXPERIMENT = "try a short run without the penalty: if it learns, the penalty is the cause, and a delay may help"
#: A cause below this weight is not told.
TOLD = 0.1
#: Difference of the weights of the first two causes, below which the record does not tell them apart.
LEAST_LEAD = 0.1


@dataclass(frozen=True)
class Cause:
    """Hypothesis on why a run fails.

    Attributes:
        name: of the cause.
        weight: how well it stands, from 0 to 1; no probability.
        evidence: what speaks for it.
        against: what speaks against it.
        remedy: what to do if it is right.
    """

    name: str
    weight: float
    evidence: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "cause": self.name, "weight": round(self.weight, 2), "for": self.evidence, "against": self.against,
            "remedy": self.remedy,
        }  # fmt: skip


def told_apart(causes: list[Cause]) -> bool:
    """Return whether the record tells the first cause from the others."""
    return len(causes) < 2 or causes[0].weight - causes[1].weight >= LEAST_LEAD
