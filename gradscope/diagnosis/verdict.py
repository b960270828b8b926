"""Answers of a judge: the verdict on a run, what it rests on, what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gradscope.card import LONG, card, plain
from gradscope.diagnosis.cause import EXPERIMENT, PENALTY, UNKNOWN, Cause
from gradscope.diagnosis.rules.finding import Finding, together
from gradscope.types import Verdict

#: Findings of the rules that a paragraph names.
NAMED = 2


@dataclass(frozen=True)
class Failure:
    """Failure that has been found.

    Attributes:
        verdict: of which kind.
        decided: optimizer step at which it was known.
        onset: optimizer step at which it began.
        evidence: in sentences.
        layers: where it began.
        constant_loss: loss of a network that predicts a constant, where that stands in for an assumed baseline.
        causes: why, the best founded first.
    """

    verdict: Verdict
    decided: int
    onset: int | None
    evidence: list[str]
    layers: list[str] = field(default_factory=list)
    #: The loss of a network that predicts a constant, where that has to stand in for an assumed baseline.
    constant_loss: float | None = None
    #: Why, the best founded first.
    causes: list[Cause] = field(default_factory=list)


@dataclass(frozen=True)
class Diagnosis:
    """Verdict on a run, with what it rests on and what to do.

    Attributes:
        verdict: what was found.
        failed: whether the run does not learn.
        probability_failed: that it does not learn by its horizon.
        onset_step: optimizer step at which a failure began.
        decided_step: optimizer step at which the verdict could be known.
        active_step: optimizer step at which the active phase began, None before.
        layers: where a collapse began, at most three.
        evidence: what it rests on, in sentences.
        remedy: what to do, in a sentence.
        cause: of a failure, the best founded of ``causes``.
        causes: each with what speaks for and against it.
        baseline_guessed: the loss of a constant predictor is not known, and the verdict rests on a guess of it.
        findings: what the rules found besides, where they looked.
    """

    verdict: Verdict
    failed: bool
    probability_failed: float
    onset_step: int | None
    decided_step: int | None
    active_step: int | None
    layers: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    remedy: str = ""
    cause: str = ""
    causes: list[dict[str, Any]] = field(default_factory=list)
    baseline_guessed: bool = False
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values of the verdict, without what the rules found."""
        found = asdict(replace(self, findings=()))
        del found["findings"]
        return {**found, "verdict": str(self.verdict)}

    @property
    def asks_without_penalty(self) -> bool:
        """Whether the record leaves open if it is the penalty: a run without it would tell."""
        return self.failed and EXPERIMENT in self.remedy

    @property
    def told(self) -> list[Finding]:
        """The findings as a person reads them: those of one kind in many layers are one."""
        return together(self.findings)

    @property
    def explanation(self) -> str:
        """The verdict, what it rests on, what to do and what the rules found besides, in a paragraph."""
        parts = [self.sentence, "; ".join(self.evidence), f"Remedy: {self.remedy}"]
        if self.findings:
            more = len(self.told) - NAMED
            told = [finding.now for finding in self.told[:NAMED]]
            parts.append("Besides: " + "; ".join([*told, *([f"{more} more"] if more > 0 else [])]))
        return ". ".join(parts)

    @property
    def lines(self) -> list[str]:
        """All of it, as ``gradscope diagnose`` prints it: under the sentence what it rests on, and what to do."""
        where = [f"it shows most in {', '.join(self.layers)}"] if self.layers else []
        what = [f"remedy: {self.remedy}"] if self.remedy else []
        besides = [line for finding in self.told for line in (finding.now, f"  {finding.suggestion}")]
        return [self.sentence, *(f"  {line}" for line in (*self.evidence, *where, *what, *besides))]

    def __str__(self) -> str:
        return "\n".join(plain(line, LONG) for line in self.lines)

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if self.verdict is Verdict.UNDECIDED:
            return "undecided: the record does not tell whether this run learns"
        if self.verdict is Verdict.HEALTHY:
            since = "" if self.active_step is None else f" (active phase from step {self.active_step})"
            guess = ", if its baseline was guessed right" if self.baseline_guessed else ""
            return f"healthy: the run learns{since}{guess}"
        onset = "" if self.onset_step is None else f" from step {self.onset_step}"
        cause = f", most likely by {self.cause}" if self.cause not in ("", PENALTY, UNKNOWN) else ""
        return f"{self.verdict}{onset}, could have been known at step {self.decided_step}{cause}"

    def _repr_html_(self) -> str:
        """Draw a card for notebooks."""
        tone = "failed" if self.failed else str(self.verdict)
        layers = [f"it shows most in {', '.join(self.layers)}"] if self.layers else []
        todo = [f"what to do: {self.remedy}"] if self.remedy else []
        besides = [f"{finding.now}: {finding.suggestion}" for finding in self.told]
        return card(self.sentence, tone, [*self.evidence, *layers, *todo, *besides])
