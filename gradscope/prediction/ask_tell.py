"""Ask/tell of probes: which comes next, and what they all say. Knows no processes and no files.

First a run without a penalty, to its escape if that comes soon: it tells the optimizer, its rates and the kind of net,
and gives a first guess. Then probes under a penalty, each at the strength that those before it point to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gradscope.prediction.features import SMOOTH, smoothed
from gradscope.prediction.level_reader import Reader
from gradscope.prediction.rows import Probe

#: Rows of a probe: enough of the penalty's own time, and never more than `ROWS`.
SHORTEST, ROWS, FOLDINGS = 15, 40, 4.0
#: The first run without a penalty ends at its escape, or after so many steps; one that has not escaped is followed on.
FREE = 32
ESCAPED = 0.7
#: A net that escapes later than this is late: its probes are twice as long as its escape, in `ROWS` averaged rows.
LATE = 56
#: A run shorter than this costs no more than its probes.
SHORT = 150
#: Steps without an escape after which there is nothing to predict, whatever the run's horizon.
LONGEST = 4000
#: Probes at most, and when the second is the last: it says that it stands at the level.
PROBES, CLOSE = 3, 0.12
#: Weights of the probes' answers: 1/(a + b|û|)².
SPREAD = (0.12, 0.2)
#: Where the last probe says that the level is still this far, nothing is told.
LOST = 0.8
#: Share of ‖w‖² in weights whose scale the loss does not depend on, from which on there is no level.
INVARIANT = 0.5
#: Decades that one probe may move the strength.
STRIDE = 1.5
#: A strength so large that a step overshoots is none to try: τ is at least this many steps.
SHORTEST_FOLDING = 1.5
CONFIDENCE = 0.95


def rows_needed(probe: Probe) -> int:
    """Return the rows of a probe of this strength: enough of the penalty's own time, from `SHORTEST` to `ROWS`."""
    return math.ceil(min(float(ROWS), max(float(SHORTEST), FOLDINGS * probe.folding + 5)))


@dataclass(frozen=True)
class Plan:
    """Probe to run.

    Attributes:
        number: which one, from 0.
        strength: λ, 0 without a penalty.
        seed: of the run.
        steps: at most.
        until: end once the training has come to this, ``escape`` or ``active``, if it does.
        delay: steps before the penalty comes on.
    """

    number: int
    strength: float
    seed: int
    steps: int
    until: str | None = None
    delay: int = 0


@dataclass(frozen=True)
class Prediction:
    """λ* from probes, or why there is none.

    Attributes:
        determined: whether there is one.
        reason: what it rests on, or why there is none.
        tolerance: λ*.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: share of configurations of other kinds that the interval holds for.
    """

    determined: bool
    reason: str
    tolerance: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = CONFIDENCE


@dataclass
class Prober:
    """Planner of probes: asked for probes and told their rows.

    Attributes:
        readers: by kind, of the shipped file.
        penalty: ``l2`` or ``l1``.
        start: the first strength, else it is guessed.
        most: probes under a penalty at most.
        seed: of the first run.
        horizon: steps of a whole run, where that is known, as `tell` may learn.
        quick: predict nothing of a training whose probes would cost as much as its runs.
        reason: why there is no prediction, empty while there may be one.
        told: probes under a penalty, with the distance that each reads.
        free: runs without a penalty.
        late: steps to the escape of a net that escapes late, 0 otherwise.
    """

    readers: Mapping[str, Reader]
    penalty: str = "l2"
    start: float | None = None
    most: int = PROBES
    seed: int = 0
    horizon: int | None = None
    quick: bool = False
    reason: str = ""
    told: list[tuple[Probe, float]] = field(default_factory=list)
    free: list[Probe] = field(default_factory=list)
    late: float = 0.0
    _next: int = 0

    @property
    def done(self) -> bool:
        """Whether enough is known, or nothing can be."""
        if self.reason or len(self.told) >= self.most:
            return True
        return len(self.told) >= 2 and abs(self.told[-1][1]) < CLOSE

    # -- asking -----------------------------------------------------------------------------------

    def ask(self) -> Plan:
        """Return the next probe; each has a seed of its own, except a run that is continued."""
        number, self._next = self._next, self._next + 1
        if not self.free:
            return Plan(number, 0.0, self.seed, FREE, "escape")
        if not self._escape(self.free[-1]):
            most = LATE if self.quick else LONGEST
            return Plan(number, 0.0, self.seed, min(self.horizon or most, most), "escape")
        if self.late and len(self.free) < 3:  # a run that is that slow: is it only that, or does it hang on the seed?
            return Plan(number, 0.0, self.seed + 1, math.ceil(min(2 * self.late, self.horizon or LONGEST)), "escape")
        strength = self._strength()
        return Plan(number, strength, self.seed + 10 + len(self.told), self._steps(strength))

    def _strength(self) -> float:
        """Return the next strength, to four digits."""
        first = 0.0
        if not self.told:
            first = self.reader.begin(self._first_rows()) if self.start is None else math.log10(self.start)
        return float(f"{10 ** self.place(first):.4g}")

    def _first_rows(self) -> Probe:
        """Return the rows that the first guess is made of."""
        return self.free[0]

    @property
    def reader(self) -> Reader:
        """The reader of the penalty, as the run without one has shown the optimizer."""
        return self.readers[self.free[0].kind]

    def place(self, first: float) -> float:
        """Return log₁₀ of the next strength; ``first``: of the first one."""
        at = first
        if self.told:
            last = math.log10(self.told[-1][0].strength)
            at = min(max(self.level(), last - STRIDE), last + STRIDE)
        return min(at, math.log10(self._strongest()))

    def _strongest(self) -> float:
        """Return the strength beyond which a step of the penalty alone overshoots."""
        unit = replace(self.free[0], strength=1.0)
        if unit.kind != "direct":
            return math.inf
        return unit.folding / SHORTEST_FOLDING

    def _steps(self, strength: float) -> int:
        if self.late:
            return ROWS * self._every
        return rows_needed(replace(self.free[0], strength=strength))

    @property
    def _every(self) -> int:
        """Steps averaged into one row of a late net's probe."""
        return max(1, math.ceil(min(2 * self.late, self.horizon or LONGEST) / ROWS))

    def _escape(self, free: Probe) -> float:
        """Return the steps to the escape, 0 without one."""
        below = np.flatnonzero(smoothed(free.loss)[SMOOTH - 1 :] < ESCAPED * free.baseline)
        return float(free.step[below[0] + SMOOTH - 1] + 1) if len(below) else 0.0

    # -- telling ----------------------------------------------------------------------------------

    def tell(self, plan: Plan, probe: Probe, invariant: float = 0.0) -> None:
        """Take the rows of a probe. ``invariant``: share of ‖w‖² in weights whose scale the loss does not depend on."""
        self.reason = self._unusable(plan, probe, invariant)
        if self.reason:
            return
        if plan.strength == 0:
            self._tell_free(plan, probe)
            return
        read = probe.averaged(self._every) if self.late else probe
        self.told.append((read, self.reader.distance(read)))
        if self.done and abs(self.told[-1][1]) > LOST and len(self.told) > 1:
            side = "below" if self.told[-1][1] > 0 else "above"
            self.reason = f"the level still lies far {side} the last probe ({probe.strength:.3g}); give --start nearby"

    def _tell_free(self, plan: Plan, probe: Probe) -> None:
        self.free.append(probe)
        escape = self._escape(probe)
        if self.quick and self.horizon is not None and self.horizon < SHORT:
            self.reason = f"a run has {self.horizon} steps, so that probes would cost as much as trials"
        elif self.quick and (escape > LATE or (not escape and plan.steps > FREE)):
            late = f"{len(probe.step)} steps without a penalty do not bring its loss to {ESCAPED:g} of the baseline"
            self.reason = f"{late}, so that probes would cost as much as trials"
        elif not escape and plan.steps > FREE:
            another = " with another seed" if len(self.free) > 2 else ""
            self.reason = (
                f"{len(probe.step)} steps without a penalty{another} do not bring the loss to {ESCAPED:g} of the "
                f"baseline {probe.baseline:.3g}: a level could not be told from a run that learns late or never"
            )
        elif escape > LATE:
            self.late = max(self.late, escape)

    def _unusable(self, plan: Plan, probe: Probe, invariant: float) -> str:
        """Return why nothing can be read off this probe, empty if something can."""
        if not (math.isfinite(probe.baseline) and probe.baseline > 0):
            return (
                f"the baseline loss is {probe.baseline:g}; give record(baseline_loss=…), the loss of a constant answer"
            )
        if len(probe.step) < SHORTEST:
            return f"the probe has {len(probe.step)} rows, {SHORTEST} are needed: the training ends too early"
        if not (np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all()):
            under = f"strength {plan.strength:g}" if plan.strength else "no penalty"
            return f"a probe of {under} is not finite, or logs no loss at every step: nothing can be read off it"
        if invariant >= INVARIANT:
            return (
                f"{invariant:.0%} of ‖w‖² is in weights whose scale the loss does not depend on (a normalisation "
                f"follows them): a penalty changes their learning rate there, and no level is known to exist"
            )
        if not self.free and probe.kind not in self.readers:
            return f"no reader has been made for {probe.kind}"
        if not self.free and (probe.kind == "l1") != (self.penalty == "l1"):
            return f"the record shows the penalty {probe.penalty}, and {self.penalty} was asked for"
        return ""

    # -- what is known ----------------------------------------------------------------------------

    def level(self) -> float:
        """Compute log₁₀ λ* from all probes, the near ones weighing most."""
        at = np.array([math.log10(probe.strength) - distance for probe, distance in self.told])
        weights = np.array([(SPREAD[0] + SPREAD[1] * abs(distance)) ** -2 for _, distance in self.told])
        return float((at * weights).sum() / weights.sum())

    def prediction(self) -> Prediction:
        """Return λ* with its interval, or why not."""
        if self.reason or not self.told:
            return Prediction(False, self.reason or "no probe has been run")
        at, half = self.level(), self.reader.error(len(self.told))
        count = f"{len(self.told)} probe{'s' * (len(self.told) > 1)}"
        reason = f"{count}; 95 % of held-out families stay within a factor of {10**half:.2g}"
        return Prediction(True, reason, 10**at, 10 ** (at - half), 10 ** (at + half))
