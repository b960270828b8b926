"""Attempts of a run, as a restart policy is told of them."""

from __future__ import annotations

from pathlib import Path

from gradscope import Verdict
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.restart.attempt import Attempt


def attempt(
    verdict: str, schedule: str | None = None, active: int | None = None, switched_on: int | None = 0
) -> Attempt:
    word = Verdict(verdict)
    diagnosis = Diagnosis(word, word.failed, 0.9, 0, 50, active, evidence=["seen"], remedy="a remedy")
    return Attempt(Path("a.h5"), 0.1, schedule, diagnosis, 80, 80, switched_on=switched_on)
