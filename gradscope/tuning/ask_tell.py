"""Search the strength with the best metric by ask and tell: what to try next, and when to stop.

A run without a penalty; a few strengths over the range; from there on the one that is expected to gain most per
training step (the knowledge gradient over a Gaussian process), where a run is expected to learn at all (the posterior
of the tolerance level). At last the best strength, and no penalty beside it, with seeds that the choice has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from gradscope import checks
from gradscope.tolerance.posterior import RISK, Array, normal_cdf
from gradscope.trials.trial import Trial
from gradscope.tuning import placement
from gradscope.tuning.metric_curve import MetricCurve
from gradscope.tuning.placement import WITHOUT, Arm, Scene
from gradscope.tuning.trials_seen import PAIRED, TrialsSeen
from gradscope.types import InputError

#: The schedule of the second curve.
DELAYED = "delayed:auto"
#: Decades between two strengths that may be tried, and how many there are at least and at most.
SPACING, FEWEST, MOST = 0.1, 9, 41
#: Where the first trials lie in the range, and how many have to learn before the curve places more.
FIRST, ENOUGH = (0.5, 0.8, 0.2, 0.65, 0.35), 4
#: The same with a delay, whose curve is known at its weak end.
FIRST_DELAYED, ENOUGH_DELAYED = (0.25, 0.6, 0.9), 2
#: Whole runs at most that the choice is made with: from the start, and with a delay.
WHOLE, WHOLE_DELAYED = 12, 8
#: A strength at which a run fails with more than `LIKELY` probability is not tried for its metric at first, and none
#: that fails with more than `CHOSEN` is chosen.
LIKELY, CHOSEN = 0.5, 2 * RISK
#: Exploring ends where the best strength is expected to be within this share of a seed's deviation of the true one.
REGRET = 0.25
#: Exploring also ends where no single run is expected to gain this share of a seed's deviation.
LITTLE = 0.01
#: Repeats, over all strengths, before the noise is believed.
REPEATS_FOR_NOISE = 2
#: Between these probabilities it is open whether a strength costs no more than it may.
OPEN = (0.15, 0.85)
#: Trials at least: one without a penalty, one with, and two pairs.
LEAST = 6
#: Less likely than this to be better, the delay's best strength is not compared in pairs.
WORTH = 0.05
#: What a failed trial costs of a whole run before any has been seen.
CUT_SHORT = 0.25


class StrengthTuning(TrialsSeen):
    """Search that places trials where they tell most about the strength with the best metric, per training step.

    Args:
        low: the weakest strength.
        high: the strongest strength.
        mode: ``max`` or ``min``: which metric is the better one.
        delayed: look at strengths with ``delayed:auto``, too.
        cost: the share of the best metric that the largest useful strength may cost.
        repeats: pairs of seeds in the comparison with no penalty.
        max_trials: trials at most.
        seed: of the trials.

    Attributes:
        strengths: those that may be tried, weakest first.
        lost: how many trials came to no outcome.

    Raises:
        InputError: one of them cannot be used.
    """

    def __init__(
        self,
        low: float,
        high: float,
        *,
        mode: str = "max",
        delayed: bool = False,
        cost: float = 0.01,
        repeats: int = 5,
        max_trials: int = 40,
        seed: int = 0,
    ) -> None:
        low, high = checks.strength_range(low, high)
        sign = {"max": 1.0, "min": -1.0}[checks.one_of(mode, ("max", "min"), "mode")]
        if not 0 < checks.finite(cost, "cost") < 1:
            raise InputError(f"cost is {cost:g}; expected a share of the metric between 0 and 1, such as 0.01")
        if checks.positive_int(max_trials, "max_trials") < LEAST:
            raise InputError(f"max_trials is {max_trials}; expected at least {LEAST}, for runs are compared in pairs")
        if checks.positive_int(repeats, "repeats") < 2:
            raise InputError(f"repeats is {repeats}; expected at least 2 pairs of seeds")
        super().__init__(low, high, sign, (None, DELAYED) if delayed else (None,), checks.whole_number(seed, "seed"))
        self.delayed, self.cost, self.max_trials = delayed, cost, max_trials
        self.repeats = min(repeats, max(2, max_trials // 6))
        count = min(MOST, max(FEWEST, round(math.log10(high / low) / SPACING) + 1))
        between = [float(f"{x:.4g}") for x in np.geomspace(low, high, count)[1:-1]]
        self.strengths = [low, *sorted(x for x in set(between) if low < x < high), high]
        self.lost = 0
        self._used: dict[Arm, set[int]] = {}  # seeds, whatever became of them
        self._lost_seeds: set[int] = set()
        self._pending: dict[int, tuple[Arm, int]] = {}
        self._number = 0

    # -- asking and telling -----------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether no further trial is to be asked for now."""
        return self._next is None

    def ask(self) -> Trial:
        """Plan the next trial. Those asked for and not yet told count as under way.

        Returns:
            The trial.

        Raises:
            InputError: the tuning is done.
        """
        if self._next is None:
            raise InputError("the tuning is done; there is no further trial to run")
        arm, seed = self._next
        trial = Trial(self._number, arm.strength, seed, audit=False, schedule=arm.schedule, whole=True)
        self._pending[trial.number] = arm, seed
        self._used.setdefault(arm, set()).add(seed)
        self._changed(trial.number)
        return trial

    def tell(self, trial: Trial) -> None:
        """Take a trial that is over."""
        self._pending.pop(trial.number, None)
        self._used.setdefault(Arm(trial.strength, trial.schedule), set()).add(trial.seed)
        self.see(trial)
        self._changed(trial.number)

    def lose(self, number: int) -> None:
        """Note that trial ``number`` came to no outcome; its seed is not asked for again there."""
        _, seed = self._pending.pop(number, (WITHOUT, -1))
        self._lost_seeds.add(seed)
        self.lost += 1
        self._changed(number)

    def skip(self, number: int) -> None:
        """Skip trial ``number``, which was under way when an earlier search ended: its number is not used again."""
        self._changed(number)

    def _changed(self, number: int) -> None:
        self._number = max(self._number, number + 1)
        for name in ("_next", "curve", "_explored", "finalists", "_fails"):
            self.__dict__.pop(name, None)

    def rest(self) -> int:
        """Estimate how many trials are still to come."""
        if self.done:
            return 0
        arms = [WITHOUT, *self.finalists] if len(self.finalists) else [WITHOUT, WITHOUT]
        paired = sum(self.is_paired(t.seed) for t in self.told)
        open_ones = max(0, ENOUGH + 3 - len(self.told)) if not paired else 0
        return int(min(self.max_trials - len(self.told) - self.lost, open_ones + len(arms) * self.repeats - paired))

    @cached_property
    def curve(self) -> MetricCurve | None:
        """The curve from all runs, None before one has learned."""
        return self.fitted(None)

    @cached_property
    def _explored(self) -> MetricCurve | None:
        """The curve from the runs that may decide the choice: without the pairs."""
        return self.fitted(False)

    @cached_property
    def _fails(self) -> dict[str | None, Array]:
        """Probability that a run fails, at every strength, by schedule; 0 before there was any."""
        tried = {t.schedule for t in self.told if t.strength > 0}
        nothing, at = np.zeros(len(self.strengths)), np.array(self.strengths)
        return {s: placement.fails_at(p, at) if s in tried else nothing for s, p in self.before_pairs.items()}

    # -- what comes next --------------------------------------------------------------------------

    @cached_property
    def _next(self) -> tuple[Arm, int] | None:
        spent = len(self.told) + self.lost + len(self._pending)
        if spent >= self.max_trials or self.hopeless is not None:
            return None
        if WITHOUT not in self._used:
            return WITHOUT, self._fresh(WITHOUT)
        for_pairs = self.repeats * (3 if self.delayed else 2)
        if not any(self.is_paired(t.seed) for t in self.told):
            if spent < self.max_trials - for_pairs and (arm := self._exploring()) is not None:
                return arm, self._fresh(arm)
            if any(not self.is_paired(seed) for _, seed in self._pending.values()):
                return None  # the choice waits for what is under way
        return self._pairing()

    @property
    def hopeless(self) -> str | None:
        """Why no further trial helps; None where one may."""
        without = self.trials_at(WITHOUT)
        if without and all(t.measured is None for t in without):
            why = without[-1].note or "it does not learn"
            return f"the training fails without a penalty, too ({why}): no matter of its strength"
        return None

    def _fresh(self, arm: Arm) -> int:
        """Return the first seed not used there. Every strength goes through the same ones: fewer draws of luck."""
        used, seed = self._used.get(arm, set()), self.first_seed
        while seed in used:
            seed += 1
        return seed

    def _exploring(self) -> Arm | None:
        """Choose a trial that the choice is made with; None where enough is known."""
        for last, schedule in enumerate(self.schedules, 1):
            if (arm := self._first_ones(schedule)) is not None:
                return arm
            most = WHOLE + (last - 1) * WHOLE_DELAYED
            whole = sum(t.measured is not None and t.strength > 0 for t in self.told)
            if whole < most and (arm := self._worth_most(self.schedules[:last])) is not None:
                return arm
        return None

    def _candidates(self, schedule: str | None) -> range:
        """List the strengths that may be tried; with a delay from about the best one without: below, it does little."""
        count = len(self.strengths)
        if schedule is None:
            return range(count)
        safe = int(np.flatnonzero(np.append(True, self._fails[None] <= RISK))[-1])
        best = self._best_of(None)
        begin = min(safe, self.strengths.index(best.strength)) if best else 0
        return range(min(begin, count - 3), count)

    def _first_ones(self, schedule: str | None) -> Arm | None:
        """Spread the first trials over the range, until enough of them learn."""
        where, enough = (FIRST, ENOUGH) if schedule is None else (FIRST_DELAYED, ENOUGH_DELAYED)
        those, fails = self._candidates(schedule), self._fails[schedule]
        waiting = {arm.strength for arm, _ in self._pending.values() if arm.schedule == schedule}
        busy = {arm.strength for arm in self.arms(schedule)} | waiting
        learned = sum(bool(self.values(arm)) for arm in self.arms(schedule))
        if learned + len(waiting) >= max(enough, len(where) if schedule is None else 0) or len(busy) >= 2 * len(where):
            return None
        spread = [those[round(share * (len(those) - 1))] for share in where]
        if left := [k for k in spread if self.strengths[k] not in busy and fails[k] <= LIKELY]:
            return Arm(self.strengths[left[0]], schedule)
        if learned + len(waiting) >= enough:
            return None
        left = [k for k in those if self.strengths[k] not in busy and fails[k] <= LIKELY]
        if not left and not learned and not waiting and self.strengths[those[0]] not in busy:
            left = [those[0]]  # all fail so far: the weakest of them
        if not left:
            return None
        tried = np.log10(sorted(busy)) if busy else np.array([0.0])
        apart = [float(np.abs(math.log10(self.strengths[k]) - tried).min()) for k in left]
        return Arm(self.strengths[left[int(np.argmax(apart))]], schedule)

    def _scene(self, schedules: Sequence[str | None]) -> Scene | None:
        if (curve := self._explored) is None:
            return None
        places = [(s, k) for s in schedules for k in self._candidates(s)]
        arms = [Arm(self.strengths[k], s) for s, k in places]
        return Scene.of(curve, arms, np.array([self._fails[s][k] for s, k in places]))

    def _worth_most(self, schedules: Sequence[str | None]) -> Arm | None:
        """Choose the trial with the largest expected gain per step; None where the best is known well enough."""
        if (scene := self._scene(schedules)) is None:
            return None
        best = scene.best(CHOSEN)
        if best is not None:
            enough = self._repeats() >= REPEATS_FOR_NOISE
            tried = self.values(scene.arms[best], False)
            far = placement.regret(scene, scene.fails <= LIKELY, best)
            if enough and tried and far <= REGRET * scene.noise:
                return self._at_the_edge(scene, best)
            if tried and not enough:
                return scene.arms[best]
        gain = np.where(scene.fails <= LIKELY, placement.knowledge_gradient(scene), 0.0)
        if best is not None and gain.max() < LITTLE * scene.noise:
            return self._at_the_edge(scene, best)
        whole, cut = self._steps()
        under_way = np.array([sum(arm == other for other, _ in self._pending.values()) for arm in scene.arms])
        score = gain / ((1 - scene.fails) * whole + scene.fails * cut) / (1 + 3 * under_way)
        return scene.arms[int(np.argmax(score))]

    def _repeats(self) -> int:
        arms = [arm for s in self.schedules for arm in self.arms(s)]
        waiting = [arm for arm, _ in self._pending.values()]
        return sum(max(0, len(self.values(arm, False)) + (arm in waiting) - 1) for arm in arms)

    def _steps(self) -> tuple[float, float]:
        """Compute the mean steps of a run that learns and of one that fails."""
        whole = float(np.mean([t.steps for t in self.told if t.measured is not None] or [1]))
        cut = [t.steps for t in self.told if t.measured is None and t.strength > 0]
        return whole, float(np.mean(cut)) if cut else CUT_SHORT * whole

    def _at_the_edge(self, scene: Scene, best: int) -> Arm | None:
        """Choose a trial that tells up to where the metric is nearly the best."""
        share = scene.nearly_best(best, self.cost)
        open_ones = [
            k for k, arm in enumerate(scene.arms)
            if OPEN[0] < share[k] < OPEN[1] and scene.fails[k] <= LIKELY and arm.strength > scene.arms[best].strength
            and len(self._used.get(arm, ())) < 2
        ]  # fmt: skip
        return scene.arms[min(open_ones, key=lambda k: abs(share[k] - 0.5))] if open_ones else None

    # -- the choice -------------------------------------------------------------------------------

    def _best_of(self, schedule: str | None) -> Arm | None:
        """Choose the best strength by what was explored; none as strong as one that failed in the pairs."""
        if (curve := self._explored) is None or not any(self.values(arm, False) for arm in self.arms(schedule)):
            return None
        failed = [
            t.strength for t in self.told
            if t.schedule == schedule and self.is_paired(t.seed) and not _learned(t) and t.seed not in self.unfit
        ]  # fmt: skip
        fails = self._fails[schedule]
        allowed = [k for k, x in enumerate(self.strengths) if x < min(failed, default=math.inf)]
        likely = [k for k in allowed if fails[k] <= CHOSEN]
        learned = [k for k in allowed if self.values(Arm(self.strengths[k], schedule), False)]
        if not (those := likely or learned):
            return None
        arms = [Arm(self.strengths[k], schedule) for k in those]
        return arms[int(np.argmax(Scene.of(curve, arms, fails[those]).expected))]

    @cached_property
    def finalists(self) -> tuple[Arm, ...]:
        """What is compared with no penalty: the best from the start, and that with a delay if it may be better."""
        found = [arm for s in self.schedules if (arm := self._best_of(s)) is not None]
        if len(found) == 2 and self._explored is not None:
            mean, covariance = self._explored.at(np.array([arm.point for arm in found]))
            apart = math.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 1e-24))
            if float(normal_cdf(np.array([(mean[1] - mean[0]) / apart]))[0]) < WORTH:
                found.pop()
        return tuple(found)

    def report(self, schedule: str | None) -> Scene | None:
        """Compute the curve from all trials, over the strengths of one schedule that lie within those that learned."""
        learned = [arm.strength for arm in self.arms(schedule) if self.values(arm)]
        if self.curve is None or not learned:
            return None
        arms = [Arm(x, schedule) for x in self.strengths if min(learned) <= x <= max(learned)]
        fails = placement.fails_at(self.posteriors[schedule], np.array([arm.strength for arm in arms]))
        return Scene.of(self.curve, arms, fails)

    def _pairing(self) -> tuple[Arm, int] | None:
        if not self.finalists:
            return None
        useless = self._lost_seeds | self.unfit
        for k in range(self.repeats + len(useless)):
            seed = self.first_seed + PAIRED + k
            for arm in (WITHOUT, *self.finalists):
                if seed not in self._used.get(arm, ()) and seed not in useless:
                    return arm, seed
        return None


def _learned(trial: Trial) -> bool:
    return trial.strength == 0 or trial.measured is not None
