"""What answers a search: a curve with known truth, or real training before the real judge. One interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.trials.run_trial import run_function_trial
from gradscope.trials.trial import Train, Trial

#: Answers a plan with what came of it.
Oracle = Callable[[Trial], Trial]


@dataclass
class Simulated:
    """Runs that fail with probability Φ((log₁₀ λ − level)/slope), and a judge that errs at these rates.

    ``alarms``: of runs that learn, ``misses``: of runs that fail. Costs in steps are those of the small MLP: 50 epochs
    of 23 steps to the horizon, 150 and 110 where a trial is ended early as failing and as learning.
    """

    level: float
    slope: float
    random: np.random.Generator
    alarms: float = 0.0
    misses: float = 0.0
    horizon: int = 1150
    early: tuple[int, int] = (110, 150)

    def truth(self, strength: float) -> bool:
        """Whether one more run at this strength fails."""
        return bool(self.random.random() < ndtr((math.log10(strength) - self.level) / self.slope))

    def __call__(self, plan: Trial) -> Trial:
        fails = self.truth(plan.strength)
        wrong = self.random.random() < (self.misses if fails else self.alarms)
        told = fails != bool(wrong)
        if plan.audit:
            return plan.over(float(fails), self.horizon, early_failed=told)
        return plan.over(0.98 if told else 0.02, self.early[told], stopped_early=True)


@dataclass
class Trained:
    """Real training before the real judge, in this process. Every answer stays in ``answers``."""

    train: Train
    folder: Path
    schedule: str | None = None
    answers: list[Trial] = field(default_factory=list)

    @property
    def record(self) -> Path:
        """The record of the latest trial."""
        return self.folder / "trial.h5"

    def __call__(self, plan: Trial) -> Trial:
        trial = run_function_trial(self.train, replace(plan, schedule=self.schedule), self.record, "l2")
        self.answers.append(trial)
        return trial


def rounded(**row: Any) -> dict[str, Any]:
    """To five digits, as the tables hold them."""
    return {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}


def driven(search: ToleranceSearch, oracle: Oracle) -> ToleranceSearch:
    """Ask and tell until the search is done."""
    while not search.done:
        plan = search.ask()
        search.tell(oracle(plan))
    return search
