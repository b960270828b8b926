"""Search a tolerance level by ask and tell: where to try next, and when to stop, without processes and files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from gradscope import checks
from gradscope.tolerance.posterior import CONFIDENCE, Array, EarlyErrors, Posterior, Predicted, ToleranceEstimate
from gradscope.trials.trial import SEEDS_APART, Outcome, Trial
from gradscope.types import InputError

#: Share of the trials that run to the horizon although their outcome is clear, to check the judge.
AUDIT = 0.05
#: Pairs of made-up outcomes for the trials under way, over which the worth of a further one is averaged.
FANTASIES = 6
#: Trials without an outcome after which a search that has seen nothing else gives up.
SILENT_AT_MOST = 3
#: Trials without an outcome in a row after which a search that has seen others gives up.
SILENT_IN_A_ROW = 6
#: The width in decades of the kernel over which trials tell whether others there would say something:
#: a trial at distance d counts exp(−½(d/width)²).
SILENCE_WIDTH = 0.03
#: Where a trial had too little time, the range begins at strength · min(shortfall · margin, most):
#: how long a run is followed differs from seed to seed.
SHORTFALL_MARGIN, SHORTFALL_MOST = 1.1, 2.0
#: The range begins at high / 1.05 at most: what needs more is tried at its end.
NARROWEST = 1.05


def early_errors(told: Iterable[Trial]) -> EarlyErrors:
    """Estimate how often early outcomes are wrong, from the audits among these trials."""
    return EarlyErrors.from_audits((t.early_failed, t.failed > 0.5) for t in told if t.early_failed is not None)


class ToleranceSearch:
    """Search that places trials where they tell most about λ* per training step, until the interval is narrow enough.

    Until both outcomes have been seen the next trial halves the range; from there on, or once one has said nothing
    beside others, it has the largest expected information per expected step, where trials near it speak. Trials under
    way are taken into account by made-up outcomes drawn from the posterior, so that a batch does not ask the same
    question twice. A penalty can be too weak for a run's length to show what it does (`Trial.shortfall`). Where nothing
    as weak has shown it either, the range begins beyond it from then on.

    Args:
        low: the weakest strength.
        high: the strongest strength.
        precision: width of the 95 % interval to reach, in decades.
        max_trials: trials at most.
        seed: of the placement of trials and of the trials themselves.
        audit: share of the trials that run to the horizon.
        schedule: of every trial's penalty.

    Attributes:
        range: the two strengths.
        posterior: of the level.
        told: trials that are over.
        lost: how many came to no outcome.

    Raises:
        InputError: one of them cannot be used.
    """

    def __init__(
        self,
        low: float,
        high: float,
        *,
        precision: float = 0.1,
        max_trials: int = 40,
        seed: int = 0,
        audit: float = AUDIT,
        schedule: str | None = None,
    ) -> None:
        low, high = checks.strength_range(low, high)
        checks.positive_int(max_trials, "max_trials")
        if not (math.isfinite(precision) and precision > 0):
            raise InputError(f"precision is {precision!r}; expected a width in decades, such as 0.1")
        if seed < 0:
            raise InputError(f"seed is {seed}; expected a whole number of at least 0")
        self.range = low, high  # as asked for
        self._searched = low, high  # what is left of it
        self._predicted: Predicted | None = None
        self._spacing = min(0.01, max(0.002, precision / 10))  # the steepest curves are .005 wide
        self.posterior = self._prior()
        self.precision = precision
        self.max_trials = max_trials
        self.told: list[Trial] = []
        self.lost = 0
        self._seed = seed
        self._audit = audit
        self._schedule = schedule
        self._pending: dict[int, float] = {}
        self._next = 0

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcomes of the trials that are over."""
        return [t.outcome for t in self.told]

    @property
    def done(self) -> bool:
        """Whether enough is known, or enough was tried, with what is under way."""
        if len(self.told) + self.lost + len(self._pending) >= self.max_trials:
            return True
        if self._all_silent and sum(t.strength >= self._searched[0] for t in self.told) >= SILENT_AT_MOST:
            return True  # nothing to be learned from trials of this kind
        if self._mute:
            return True  # nor from more of them where the level is
        if self.posterior.undetermined(self.outcomes) is None:
            return self.posterior.decades() <= self.precision
        return len(self.told) > 1 and max(self.posterior.inside()) > CONFIDENCE  # nothing to be found in this range

    # -- asking -----------------------------------------------------------------------------------

    def ask(self) -> Trial:
        """Plan the next trial. Those asked for and not yet told count as under way."""
        random = np.random.default_rng([self._seed, self._next])  # does not depend on what was asked before
        low, high = self._searched
        strength = min(max(float(f"{10 ** self._place(random):.4g}"), low), high)
        seed, audit = self._seed * SEEDS_APART + self._next, bool(random.random() < self._audit)
        trial = Trial(self._next, strength, seed, audit, self._schedule)
        self._pending[trial.number] = strength
        self._next += 1
        return trial

    def _place(self, random: np.random.Generator) -> float:
        """Choose the log₁₀ strength that tells most per expected step."""
        posterior = self.posterior
        if not self._pending and not self._bracketed and (self._all_silent or not self._any_silent):
            return float(np.clip(posterior.quantile(0.5), posterior.low, posterior.high))
        if not self._pending:
            x, gain, fails = posterior.information()
            return float(x[int(np.argmax(gain * self._speaks(x) / self._cost(fails)))])
        worth: dict[float, float] = {}
        for _ in range(FANTASIES):
            imagined = posterior
            for strength in self._pending.values():
                at = math.log10(strength)
                failing = float((imagined.weights * imagined.probability_told(at, early=True)).sum())
                imagined = imagined.supposing(at, bool(random.random() < failing))
            x, gain, told = imagined.information()
            gain = gain * self._speaks(x)
            best = int(np.argmax(gain / self._cost(told)))
            worth[float(x[best])] = worth.get(float(x[best]), 0.0) + float(gain[best])
        return max(worth, key=worth.__getitem__)

    @property
    def _all_silent(self) -> bool:
        return bool(self.told) and all(t.silent for t in self.told)

    @property
    def _within(self) -> list[Trial]:
        """Trials of what is left of the range."""
        return [t for t in self.told if t.strength >= self._searched[0]]

    @property
    def _any_silent(self) -> bool:
        return any(t.silent for t in self._within)

    @property
    def _mute(self) -> bool:
        """Whether the latest trials within reach have all said nothing."""
        latest = self._within[-SILENT_IN_A_ROW:]
        return len(latest) == SILENT_IN_A_ROW and all(t.silent for t in latest)

    def _speaks(self, x: Array) -> Array:
        """Estimate the chance that a trial at these log₁₀ strengths [K] says something, from those near; else 1."""
        if not self._any_silent:
            return np.ones_like(x)
        within = self._within
        at = np.log10([t.strength for t in within])
        near = np.exp(-0.5 * ((x[:, None] - at) / SILENCE_WIDTH) ** 2)
        spoken = near @ np.array([not t.silent for t in within], dtype=float)
        return np.asarray((1 + spoken) / (1 + near.sum(1)))

    @property
    def _bracketed(self) -> bool:
        return any(t.failed > 0.5 for t in self.told) and any(t.failed < 0.5 for t in self.told)

    def _cost(self, fails: Array) -> Array:
        """Estimate the steps of a trial that fails with this probability; 1 until both ways were seen."""
        steps = {
            way: [t.steps for t in self.told if (t.failed > 0.5) == way and t.stopped_early] for way in (True, False)
        }
        if not (steps[True] and steps[False]):
            return np.ones_like(fails)
        return fails * float(np.mean(steps[True])) + (1 - fails) * float(np.mean(steps[False]))

    # -- telling ----------------------------------------------------------------------------------

    def expect(self, predicted: Predicted) -> None:
        """Take what was predicted of the level as the prior, as if it had been known before the first trial."""
        self._predicted = predicted
        self._begin_again()

    def tell(self, trial: Trial) -> None:
        """Take a trial that is over."""
        self._forget(trial.number)
        self.told.append(trial)
        errors, searched = self.errors, self._searched
        self._searched = self._within_reach()
        if self._searched != searched or (trial.early_failed is not None and errors != self.posterior.errors):
            self._begin_again()  # all that was seen is worth something else now
        else:
            self.posterior.update(trial.outcome)

    def _begin_again(self) -> None:
        self.posterior = self._prior(self.errors)
        for outcome in self.outcomes:
            self.posterior.update(outcome)

    def _within_reach(self) -> tuple[float, float]:
        """Cut off of the range what is weaker than a strength that had too little time.

        Where nothing as weak has shown what it does: else that run was merely late.

        Returns:
            The weakest and the strongest strength.
        """
        low, high = self.range
        spoken = min((t.strength for t in self.told if not t.silent), default=high)
        short = [t for t in self.told if t.shortfall > 1 and t.strength < spoken]
        begin = max((t.strength * min(t.shortfall * SHORTFALL_MARGIN, SHORTFALL_MOST) for t in short), default=low)
        return max(low, min(begin, spoken, high / NARROWEST)), high

    def lose(self, number: int) -> None:
        """Note that trial ``number`` came to no outcome: its worker died, or it hung."""
        self._forget(number)
        self.lost += 1

    def skip(self, number: int) -> None:
        """Skip trial ``number``, asked for by a search that was killed; neither it nor its seed is used again."""
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._pending.pop(number, None)
        self._next = max(self._next, number + 1)

    @property
    def errors(self) -> EarlyErrors:
        """How often early outcomes are wrong, from the audits so far."""
        return early_errors(self.told)

    def _prior(self, errors: EarlyErrors | None = None) -> Posterior:
        return Posterior(*self._searched, spacing=self._spacing, errors=errors, predicted=self._predicted)

    # -- what is known ----------------------------------------------------------------------------

    def estimate(self) -> ToleranceEstimate:
        """Estimate λ* so far; the reason says what kept the interval wider than asked for."""
        slow = self._searched[0] > self.range[0]
        weaker = "weaker penalties need longer runs to show what they do" if slow else "try weaker ones"
        found = self.posterior.estimate(self.outcomes, weaker)
        count = len(self.told) + self.lost
        if found.determined and found.decades > self.precision and count >= self.max_trials and not self._mute:
            short = (
                f"{found.decades:.2g} decades wide after {count} trials, {self.precision:g} wanted: allow more trials"
            )
            return replace(found, reason=f"{found.reason}; {short}")
        if self.lost and not self.told:
            return replace(found, reason=f"{found.reason}: {self.lost} lost, for reasons that search.jsonl holds")
        if self._all_silent:
            return replace(found, reason=f"{found.reason}: {self.told[-1].note}")
        if self._mute and found.decades > self.precision:
            latest = self._within[-SILENT_IN_A_ROW:]
            tried = [t.strength for t in latest]
            where = f"the last {SILENT_IN_A_ROW}, of {min(tried):.3g} to {max(tried):.3g}"
            return replace(found, reason=f"{found.reason}; {where}: {latest[-1].note}")
        return found

    def rest(self) -> int:
        """Estimate how many trials are still to come: what is left to learn, over what the next one teaches."""
        if self.done:
            return 0
        left = self.max_trials - len(self.told) - self.lost
        x, information, _ = self.posterior.information()
        gain = float((information * self._speaks(x)).max())
        # The gain of later trials is about that of the next: the curve is met at its own scale again.
        wanted = math.log(max(self.posterior.decades() / self.precision, 1.0)) / max(gain, 1e-3)
        return int(min(left, max(1, math.ceil(wanted))))
