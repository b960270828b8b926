"""Result of a tuning: the strength with the best metric, what it gains, what a stronger one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.card import card
from gradscope.quantities import Strength
from gradscope.tolerance.posterior import ToleranceEstimate
from gradscope.trials.trial import Trial, epochs_of
from gradscope.tuning.ask_tell import CHOSEN, DELAYED, LIKELY, StrengthTuning
from gradscope.tuning.placement import WITHOUT, Arm

#: Below this p a difference is called more than chance.
CHANCE = 0.05


@dataclass(frozen=True)
class TuneProgress:
    """Progress of a tuning after a trial.

    Attributes:
        trial: the one that is over, None if it was lost.
        lost: why it came to nothing, None if it did not.
        best: the strength with the best metric so far.
        trials: that are over.
        steps: of all of them together.
        rest: about how many trials are still to come.
    """

    trial: Trial | None
    lost: str | None
    best: float | None
    trials: int
    steps: int
    rest: int


@dataclass(frozen=True)
class Difference:
    """Difference of a metric from another one, by pairs of runs with the same seed.

    Attributes:
        gain: mean of the pairs; better is above 0.
        p_value: of Student's t test of the pairs, two-sided; None below two pairs.
        pairs: their number.
    """

    gain: float
    p_value: float | None
    pairs: int

    @property
    def told(self) -> bool:
        """Whether it is more than chance."""
        return self.p_value is not None and self.p_value < CHANCE

    @property
    def in_words(self) -> str:
        """Its significance in words."""
        if self.p_value is None:
            return "one pair of runs, which tells nothing of chance"
        chance = f"p = {self.p_value:.2g}, {self.pairs} pairs of runs"
        return chance if self.told else f"no more than chance, {chance}"


def difference(here: Mapping[int, float], there: Mapping[int, float], sign: float) -> Difference | None:
    """Compare two metrics by seed, ``here`` with ``there``; None where no seed is in both."""
    seeds = sorted(here.keys() & there.keys())
    if not seeds:
        return None
    apart = sign * np.array([here[s] - there[s] for s in seeds])
    gain = float(apart.mean())
    if len(seeds) < 2:
        return Difference(gain, None, 1)
    if np.ptp(apart) <= 1e-12 * max(1.0, abs(gain)):  # the t test has no deviation to divide by
        return Difference(gain, 1.0 if abs(gain) <= 1e-12 else 0.0, len(seeds))
    from scipy.stats import ttest_1samp

    return Difference(gain, float(ttest_1samp(apart, 0.0).pvalue), len(seeds))


@dataclass(frozen=True)
class Best:
    """Strength and its metric, over runs whose seeds the choice has not seen.

    Attributes:
        strength: λ.
        schedule: as text.
        value: mean of the metric.
        low: lower end of the strengths between which the best one lies with 95 % probability.
        high: upper end.
        sparsity: mean share of penalised weights that are exactly 0, None where it is not known.
    """

    strength: float
    schedule: str
    value: float
    low: float
    high: float
    sparsity: float | None

    def as_dict(self, penalty: str) -> dict[str, Any]:
        """Return plain values, with ``weight_decay``."""
        return {**asdict(self), "weight_decay": Strength(self.strength, penalty).weight_decay}


@dataclass(frozen=True)
class Useful:
    """Largest strength that costs at most a share of the best metric.

    Attributes:
        strength: λ.
        schedule: as text.
        sparsity: as in `Best`.
        bounded: a stronger one was tried and costs more, or fails; else the range ends there.
    """

    strength: float
    schedule: str
    sparsity: float | None
    bounded: bool


@dataclass(frozen=True)
class TuneResult:
    """Result of a tuning.

    Attributes:
        determined: whether the best strength was compared with no penalty.
        reason: what it rests on, or why there is none.
        penalty: its word.
        metric: name of the metric.
        mode: ``max`` or ``min``.
        cost: the share of the best metric that ``useful`` may cost.
        best: the best strength.
        without: the metric without a penalty, over the same seeds as ``best``.
        difference: ``best`` from no penalty.
        delay: the best with a delay from the best from the start, where both were compared.
        useful: the largest strength that costs little.
        tolerance: the tolerance level, as far as these trials tell.
        delayed_tolerance: the same with a delay, where that was asked for.
        trials: all that are over.
        lost: how many came to no outcome.
        out: the search folder.
        no_delay: why ``delay`` is None, where a delay was asked for.
    """

    determined: bool
    reason: str
    penalty: str
    metric: str
    mode: str
    cost: float
    best: Best | None
    without: float | None
    difference: Difference | None
    delay: Difference | None
    useful: Useful | None
    tolerance: ToleranceEstimate
    delayed_tolerance: ToleranceEstimate | None
    trials: tuple[Trial, ...]
    lost: int = 0
    out: Path | None = None
    no_delay: str = ""

    @property
    def steps_run(self) -> int:
        """Optimizer steps of all trials together."""
        return sum(t.steps for t in self.trials)

    @property
    def gain(self) -> float | None:
        """What the best strength gains over no penalty; above 0 is better, whatever the mode."""
        return None if self.difference is None else self.difference.gain

    @property
    def advice(self) -> str:
        """What to use, what it gains, and how far one may go, in a sentence."""
        if self.best is None:
            return f"no useful strength was found: {self.reason}"
        parts = [self._recommended()]
        if self.useful is not None and self.useful.strength > self.best.strength:
            beyond = "" if self.useful.bounded else ", where the range ends"
            if self.useful.sparsity:
                beyond += f", with {self.useful.sparsity:.0%} of the penalised weights exactly 0"
            parts.append(
                f"up to {self._at(self.useful.strength, self.useful.schedule)} it costs at most "
                f"{100 * self.cost:.3g} % of the best {self.metric}{beyond}"
            )
        if self.delay is not None:
            gain = self.delay.gain
            what = f"adds nothing that is told from chance: {gain:+.3g}"
            if self.delay.told:
                what = f"adds {gain:.3g}" if gain > 0 else f"costs {-gain:.3g}"
            parts.append(f"the delay {what} ({self.delay.in_words})")
        elif self.no_delay:
            parts.append(self.no_delay)
        if self.tolerance.tolerance is not None:
            level = Strength(self.tolerance.tolerance, self.penalty)
            parts.append(f"the tolerance level, beyond which nothing is learned from the start, is {level}")
        return "; ".join(parts)

    def _recommended(self) -> str:
        assert self.best is not None
        what = f"the best {self.metric} is at {self._at(self.best.strength, self.best.schedule)}: {self.best.value:.4g}"
        if self.without is None or self.difference is None:
            return what
        against = f"{what} against {self.without:.4g} without a penalty"
        if self.difference.gain <= 0:
            return f"{against}: no strength of the range is better than none ({self.difference.in_words})"
        return f"{against} ({self.difference.in_words})"

    def _at(self, strength: float, schedule: str) -> str:
        how = "from the start" if schedule == "constant" else f"with a delay (--schedule {schedule})"
        return f"{Strength(strength, self.penalty)} {how}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as ``gradscope tune --json`` prints them."""
        nothing = dict.fromkeys(("strength", "weight_decay", "schedule", "value", "low", "high", "sparsity"))
        return {
            "determined": self.determined,
            "reason": self.reason,
            "penalty": self.penalty,
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best.as_dict(self.penalty) if self.best else nothing,
            "without": {"value": self.without},
            "gain": self.gain,
            "p_value": self.difference.p_value if self.difference else None,
            "pairs": self.difference.pairs if self.difference else 0,
            "useful_up_to": self.useful.strength if self.useful else None,
            "useful": asdict(self.useful) if self.useful else None,
            "cost": self.cost,
            "delay": asdict(self.delay) | {"adds": self.delay.gain > 0 and self.delay.told} if self.delay else None,
            "tolerance": self.tolerance.tolerance,
            "delayed_tolerance": self.delayed_tolerance.tolerance if self.delayed_tolerance else None,
            "trials": len(self.trials),
            "lost": self.lost,
            "steps_run": self.steps_run,
            "epochs_run": epochs_of(self.trials),
            "advice": self.advice,
            "runs": [t.shown() for t in self.trials],
        }

    def _repr_html_(self) -> str:
        """Draw a card for notebooks."""
        facts: dict[str, object] = {"penalty": self.penalty, "metric": self.metric, "trials": len(self.trials)}
        if self.best is not None:
            facts["best strength"] = self._at(self.best.strength, self.best.schedule)
            facts["95 % interval"] = f"{self.best.low:.3g} to {self.best.high:.3g}"
        return card(self.advice, "healthy" if self.determined else "undecided", facts=facts)


def concluded(
    tuning: StrengthTuning, trials: Sequence[Trial], penalty: str, metric: str, lost: int, out: Path | None
) -> TuneResult:
    """Conclude from the trials, from the pairs where there are any."""
    best, difference_there, delay, why = _chosen(tuning, trials)
    delayed = tuning.tolerance(DELAYED) if tuning.delayed else None
    return TuneResult(
        best is not None and difference_there is not None, why, penalty, metric, "max" if tuning.sign > 0 else "min",
        tuning.cost, best, _without(tuning), difference_there, delay, _useful(tuning, trials, best),
        tuning.tolerance(None), delayed, tuple(trials), lost, out,
        _no_delay(tuning) if tuning.delayed and delay is None else "",
    )  # fmt: skip


def _no_delay(tuning: StrengthTuning) -> str:
    """Return why no delayed strength was compared with the best one from the start."""
    if not any(t.schedule for t in tuning.told):
        return "whether a delay adds anything is not known: no delayed strength was tried, allow more trials"
    if len(tuning.finalists) == 2:
        return "whether a delay adds anything is not known: no pair with and without it was finished, allow more trials"
    return "the delay adds nothing: no delayed strength came near the best one from the start"


def _chosen(
    tuning: StrengthTuning, trials: Sequence[Trial]
) -> tuple[Best | None, Difference | None, Difference | None, str]:
    """Choose the best strength; compute its gain and that of a delay; say what was compared, or why nothing was."""
    finalists = tuning.finalists
    if tuning.hopeless is not None or not finalists:
        return None, None, None, tuning.hopeless or _nothing_learned(tuning)
    seen = {arm: tuning.values(arm, True) or tuning.values(arm) for arm in finalists}
    seen = {arm: values for arm, values in seen.items() if values}
    if not seen:
        return None, None, None, "no run at the strength that was chosen has come to a metric: allow more trials"
    arm = max(seen, key=lambda a: tuning.sign * float(np.mean(list(seen[a].values()))))
    value = float(np.mean(list(seen[arm].values())))
    low, high = _interval(tuning, arm)
    best = Best(arm.strength, arm.schedule or "constant", value, low, high, _sparsity(trials, arm))
    pairs = difference(tuning.values(arm, True), tuning.values(WITHOUT, True), tuning.sign)
    delay = None
    if len(finalists) == 2:
        delay = difference(tuning.values(finalists[1], True), tuning.values(finalists[0], True), tuning.sign)
    if pairs is None:
        return best, None, delay, "no pair of runs with and without a penalty was finished: allow more trials"
    return best, pairs, delay, f"{pairs.pairs} pairs of runs with seeds that the choice had not seen"


def _nothing_learned(tuning: StrengthTuning) -> str:
    tried = [t.strength for t in tuning.told if t.strength > 0]
    if not tried:
        return "there are no finished trials with a penalty"
    if any(t.measured is not None for t in tuning.told if t.strength > 0):
        return f"runs learn with a penalty, and none is left that all of its pairs bear, down to {min(tried):g}"
    return f"no run with a penalty learns, down to {min(tried):g}: try weaker ones"


def _without(tuning: StrengthTuning) -> float | None:
    seen = tuning.values(WITHOUT, True) or tuning.values(WITHOUT)
    return float(np.mean(list(seen.values()))) if seen else None


def _interval(tuning: StrengthTuning, arm: Arm) -> tuple[float, float]:
    scene = tuning.report(arm.schedule)
    found = scene.where_best(LIKELY) if scene is not None else None
    low, high = found or (arm.strength, arm.strength)
    return min(low, arm.strength), max(high, arm.strength)


def _useful(tuning: StrengthTuning, trials: Sequence[Trial], best: Best | None) -> Useful | None:
    """Find the strongest that most likely costs no more than it may, of those between strengths that were tried."""
    if best is None or tuning.curve is None:
        return None
    here = Arm(best.strength, None if best.schedule == "constant" else best.schedule)
    value = float(tuning.curve.natural(np.array([here.point]))[0][0])  # the curve's, as what it is held against
    least = value - tuning.cost * abs(value)
    reached: list[Useful] = []
    for schedule in tuning.schedules:
        if (scene := tuning.report(schedule)) is None:
            continue
        mean = scene.squash.natural(scene.mean)
        those = np.flatnonzero((mean >= least) & (scene.fails <= CHOSEN))
        if not len(those):
            continue
        arm = scene.arms[int(those[-1])]
        stronger = any(t.strength > arm.strength and t.schedule == schedule for t in tuning.told)
        reached.append(Useful(arm.strength, arm.schedule or "constant", _sparsity(trials, arm), stronger))
    return max(reached, key=lambda u: u.strength, default=None)


def _sparsity(trials: Sequence[Trial], arm: Arm) -> float | None:
    """Interpolate the mean share of zeros at a strength between those that were tried."""
    seen: dict[float, list[float]] = {}
    for t in trials:
        if t.counts and t.schedule == arm.schedule and t.strength > 0 and t.sparsity is not None:
            seen.setdefault(t.strength, []).append(t.sparsity)
    if not seen:
        return None
    at = sorted(seen)
    return float(np.interp(np.log(arm.strength), np.log(at), [float(np.mean(seen[x])) for x in at]))
