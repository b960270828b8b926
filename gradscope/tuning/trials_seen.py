"""What the trials of a tuning have shown so far: metrics by seed, the tolerance level, and the curve through them."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.tolerance.posterior import Posterior, ToleranceEstimate
from gradscope.trials.trial import SEEDS_APART, Trial
from gradscope.tuning.metric_curve import MetricCurve, Point
from gradscope.tuning.placement import Arm

#: Seeds of the pairs begin here: none of those that the choice was made with.
PAIRED = 50_000


class TrialsSeen:
    """Trials that are over, and what they say.

    Args:
        low: the weakest strength.
        high: the strongest strength.
        sign: 1 where a larger metric is better, −1 where a smaller one is.
        schedules: that are tried; None is a penalty from the start.
        seed: of the tuning.

    Attributes:
        range: the two strengths.
        posteriors: of the tolerance level, by schedule, from all trials.
        before_pairs: the same, from the trials that the choice is made with.
        told: the trials.
    """

    def __init__(self, low: float, high: float, sign: float, schedules: Sequence[str | None], seed: int) -> None:
        self.range, self.sign, self.schedules = (low, high), sign, tuple(schedules)
        self.first_seed = seed * SEEDS_APART
        self.posteriors = {s: Posterior(low, high) for s in self.schedules}
        self.before_pairs = {s: Posterior(low, high) for s in self.schedules}
        self.told: list[Trial] = []

    def see(self, trial: Trial) -> None:
        """Take a trial that is over."""
        self.told.append(trial)
        if trial.strength == 0 and trial.measured is None:  # what its seed said of the penalty counts no more
            self.posteriors, self.before_pairs = ({s: Posterior(*self.range) for s in self.schedules} for _ in range(2))
            for other in self.told:
                self._weigh(other)
        else:
            self._weigh(trial)

    def _weigh(self, trial: Trial) -> None:
        """Take an outcome into account, unless its seed fails without a penalty, too."""
        if trial.strength == 0 or trial.seed in self.unfit:
            return
        self.posteriors[trial.schedule].update(trial.outcome)
        if not self.is_paired(trial.seed):
            self.before_pairs[trial.schedule].update(trial.outcome)

    @property
    def unfit(self) -> set[int]:
        """Seeds with which the training fails without a penalty: they say nothing of one."""
        return {t.seed for t in self.told if t.strength == 0 and t.measured is None}

    def values(self, arm: Arm, paired: bool | None = None) -> dict[int, float]:
        """Return the metric by seed, as it is, of the runs that learned at one strength.

        Args:
            arm: the strength with its schedule.
            paired: True: of the pairs; False: of the others; None: of all.

        Returns:
            The values.
        """
        return {
            t.seed: t.measured for t in self.trials_at(arm)
            if t.measured is not None and paired in (None, self.is_paired(t.seed))
        }  # fmt: skip

    def trials_at(self, arm: Arm) -> list[Trial]:
        """List the trials that are over at one strength."""
        return [t for t in self.told if (t.strength, t.schedule) == (arm.strength, arm.schedule)]

    def is_paired(self, seed: int) -> bool:
        """Return whether a seed is of the pairs that the choice has not seen."""
        return seed - self.first_seed >= PAIRED

    def arms(self, schedule: str | None) -> list[Arm]:
        """Return the strengths that were tried with a penalty and this schedule, weakest first."""
        tried = {Arm(t.strength, t.schedule) for t in self.told if t.strength > 0 and t.schedule == schedule}
        return sorted(tried, key=lambda arm: arm.strength)

    def fitted(self, paired: bool | None) -> MetricCurve | None:
        """Fit the metric against strength; None where no run learned. ``paired``: as for `values`."""
        values: dict[Point, list[float]] = {}
        for arm in (arm for schedule in self.schedules for arm in self.arms(schedule)):
            if seen := self.values(arm, paired):
                values[arm.point] = [self.sign * v for v in seen.values()]
        return MetricCurve(values) if values else None

    def tolerance(self, schedule: str | None) -> ToleranceEstimate:
        """Estimate the tolerance level, as far as these trials tell."""
        those = [t for t in self.told if t.strength > 0 and t.schedule == schedule]
        outcomes = [t.outcome for t in those if t.seed not in self.unfit]
        return self.posteriors[schedule].estimate(outcomes)
