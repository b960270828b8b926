"""Where to try next, and when to stop: an ask/tell object that knows no processes and no files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradscope import checks
from gradscope.diagnosis.tolerance import Outcome, Posterior, ToleranceEstimate
from gradscope.types import InputError

#: Share of the trials that run to the horizon although their outcome is clear, to check the judge.
AUDIT = 0.05


@dataclass(frozen=True)
class Plan:
    """One trial to run. ``audit``: to the horizon, without stopping early."""

    number: int
    strength: float
    seed: int
    audit: bool


class ToleranceSearch:
    """Places trials where they tell most about λ* per training step, until the interval is narrow enough.

    ``precision``: the width of the 95 % interval to reach, in decades. Trials that run at the same time
    are placed at draws from the posterior, so that a batch spreads as its uncertainty does.
    """

    def __init__(self, low: float, high: float, *, precision: float = 0.1, max_trials: int = 40, seed: int = 0) -> None:
        checks.strength_range(low, high)
        checks.positive_int(max_trials, "max_trials")
        if not (math.isfinite(precision) and precision > 0):
            raise InputError(f"precision is {precision!r}; expected a width in decades, such as 0.1")
        if seed < 0:
            raise InputError(f"seed is {seed}; expected a whole number of at least 0")
        self.posterior = Posterior(low, high)
        self.precision = precision
        self.max_trials = max_trials
        self.outcomes: list[Outcome] = []
        self._random = np.random.default_rng(seed)
        self._asked = 0
        self._steps: dict[bool, list[int]] = {True: [], False: []}

    @property
    def done(self) -> bool:
        """Enough is known, or enough was tried."""
        return self._asked >= self.max_trials or self.estimate().decades <= self.precision

    def ask(self, running: int = 0) -> Plan:
        """The next trial, while ``running`` others are under way."""
        x = self.posterior.level
        if running:
            weights = self.posterior.weights.sum(1)
            chosen = float(self._random.choice(x, p=weights))
        else:
            gain, fails = self.posterior.information()
            cost = fails * self._mean_steps(True) + (1 - fails) * self._mean_steps(False)
            chosen = float(x[int(np.argmax(gain / cost))])
        plan = Plan(self._asked, float(f"{10**chosen:.4g}"), self._asked, bool(self._random.random() < AUDIT))
        self._asked += 1
        return plan

    def _mean_steps(self, failed: bool) -> float:
        """The mean cost of a trial that ends this way, once both ways were seen."""
        if not (self._steps[True] and self._steps[False]):
            return 1.0
        return float(np.mean(self._steps[failed]))

    def tell(self, strength: float, failed: float, steps: int) -> None:
        """A trial is over."""
        outcome = Outcome(strength, failed)
        self.outcomes.append(outcome)
        self.posterior.update(outcome)
        self._steps[failed >= 0.5].append(steps)

    def replay(self, number: int, strength: float, failed: float, steps: int) -> None:
        """A trial of an earlier call, from the ledger."""
        self._asked = max(self._asked, number + 1)
        self._random.random()
        self.tell(strength, failed, steps)

    def estimate(self) -> ToleranceEstimate:
        return self.posterior.estimate(self.outcomes)
