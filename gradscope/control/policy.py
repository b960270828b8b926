"""Restart policies: told how an attempt ended, asked what to do next. They start nothing themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.diagnosis.verdict import Diagnosis
from gradscope.types import InputError, Verdict


@dataclass(frozen=True)
class Attempt:
    """One run of the training command, over."""

    path: Path
    strength: float | None
    schedule: str | None
    diagnosis: Diagnosis
    steps: int
    stopped_step: int | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "strength": self.strength,
            "schedule": self.schedule or "constant",
            "verdict": str(self.diagnosis.verdict),
            "stopped_step": self.stopped_step,
            "steps": self.steps,
            "onset_step": self.diagnosis.onset_step,
            "decided_step": self.diagnosis.decided_step,
            "active_step": self.diagnosis.active_step,
        }


@dataclass(frozen=True)
class Decision:
    """Either the schedule of the next attempt, or the end and why."""

    start: bool
    schedule: str | None = None
    reason: str = ""


class DelayedRestart:
    """A collapsed run starts again with the same strength, and the penalty delayed (Park et al., eq. 8).

    ``restart``: ``delayed`` (until the run's own record shows the active phase), ``delayed:5`` (epochs),
    ``delayed:2000steps``, or ``none``. It abstains where a delay cannot help: the run had been learning
    before the penalty crushed it, or the penalty is not what stopped it.
    """

    def __init__(self, schedule: str | None, restart: str = "delayed", max_restarts: int = 1) -> None:
        if not re.fullmatch(r"none|delayed(:auto|:\d+(\.\d+)?(epochs?)?|:\d+steps?)?", restart):
            raise InputError(f"restart is {restart!r}; expected delayed, delayed:5 (epochs), delayed:2000steps or none")
        if max_restarts < 0:
            raise InputError(f"max_restarts is {max_restarts}; expected at least 0")
        self._first = schedule
        self._again = "delayed:auto" if restart == "delayed" else restart
        self._left = 0 if restart == "none" else max_restarts
        self._last: Attempt | None = None

    def ask(self) -> Decision:
        """What to do now."""
        if self._last is None:
            return Decision(True, self._first)
        diagnosis = self._last.diagnosis
        if not diagnosis.failed:
            return Decision(False, reason="the run learns")
        if diagnosis.verdict is not Verdict.COLLAPSED:
            return Decision(False, reason=f"{diagnosis.verdict}: {diagnosis.remedy}")
        if diagnosis.active_step is not None:
            return Decision(False, reason=diagnosis.remedy)
        if self._left == 0:
            return Decision(False, reason="the run collapsed, and no restart is left")
        return Decision(True, self._again, f"{diagnosis.sentence}; again with {self._again}")

    def tell(self, attempt: Attempt) -> None:
        """An attempt is over."""
        if self._last is not None:
            self._left -= 1
        self._last = attempt
