"""Ask/tell of branches of one learned net, which tell the delayed level. Knows no processes and no files.

First a run without a penalty, to its active phase: so long does ``delayed:auto`` wait. Each branch is the same run, of
its seed, whose penalty comes on there; the rows from there on are read as those of a probe from the start are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradscope.prediction.ask_tell import ESCAPED, FREE, INVARIANT, LONGEST, Plan, Prediction, Prober
from gradscope.prediction.rows import Probe

#: Rows that the first guess is made of, where the run has escaped by then.
EARLY = 17
#: Rows of a branch under its penalty.
ROWS = 80
#: Steps before the penalty comes on: the longest delay that the reader has learned from.
LATEST = 700
#: Sizes of weights at the start that differ by more, as a share, are those of two nets.
SAME = 1e-3
#: The learning rate of a branch may be this many times its mean: the reader has learned from constant ones.
STEADY = 1.25


@dataclass
class BranchProber(Prober):
    """Planner of branches: asked for them and told their rows, as `Prober` is.

    Attributes:
        apart: a branch did not begin as the run without a penalty, though it had its seed.
    """

    apart: bool = False

    @property
    def delay(self) -> int:
        """Steps before the penalty comes on; 0 while they are not known."""
        return len(self.free[0].step) if self.free else 0

    def ask(self) -> Plan:
        """Return the next branch; all have one seed."""
        number, self._next = self._next, self._next + 1
        if not self.free:
            return Plan(number, 0.0, self.seed, LONGEST, "active")
        return Plan(number, self._strength(), self.seed, self.delay + ROWS, delay=self.delay)

    def tell(self, plan: Plan, probe: Probe, invariant: float = 0.0) -> None:
        """Take the rows of a whole run, those before the penalty comes on among them."""
        if self.free and len(probe.step):
            first, again = self.free[0].weight[0], probe.weight[0]
            self.apart |= len(first) != len(again) or not np.allclose(again, first, rtol=SAME)
        super().tell(plan, probe.after(plan.delay), invariant)

    def _first_rows(self) -> Probe:
        """Return the rows that the first guess is taught: as many as a run has that ends at its escape."""
        early = self.free[0].first(EARLY)
        return early if self._escape(early) else self.free[0].first(FREE)

    def _tell_free(self, plan: Plan, probe: Probe) -> None:
        self.free.append(probe)
        rows = len(probe.step)
        if not self._escape(probe):
            self.reason = (
                f"{rows} steps without a penalty do not bring the loss to {ESCAPED:g} of the baseline "
                f"{probe.baseline:.3g}: a delay would not end in a learned net"
            )
        elif rows > LATEST:
            self.reason = (
                f"its active phase begins after {rows} steps, and the reader has learned from delays of at most "
                f"{LATEST}: take gradscope search --delayed"
            )
        elif self.horizon is not None and rows + ROWS > self.horizon:
            self.reason = (
                f"its active phase begins after {rows} of {self.horizon} steps, and {ROWS} are needed after it: "
                f"train longer"
            )

    def _unusable(self, plan: Plan, probe: Probe, invariant: float) -> str:
        if self.free and len(probe.step) < ROWS:
            return f"the training ends {len(probe.step)} steps after its penalty comes on, {ROWS} are needed"
        if not self.free and probe.kind not in self.readers and invariant < INVARIANT:
            named = {"coupled": "Adam with a coupled decay", "l1": "L1"}.get(probe.kind, probe.kind)
            return f"delayed levels are read for L2 under SGD and AdamW only, not for {named}"
        rate = probe.rate[np.isfinite(probe.rate)]
        if self.free and len(rate) and rate.max() > STEADY * rate.mean():
            return (
                f"the learning rate goes from {rate[0]:.3g} to {rate[-1]:.3g} within {ROWS} steps, and delayed levels "
                f"are read at constant ones only"
            )
        return super()._unusable(plan, probe, invariant)

    def prediction(self) -> Prediction:
        """Return the delayed level with its interval, or why there is none."""
        found = super().prediction()
        if not found.determined:
            return found
        words = f"{found.reason}{' (under AdamW nine in ten)' if self.free[0].adaptive else ''}"
        words += f"; the penalty comes on after {self.delay} steps, in the active phase"
        if self.apart:
            words += (
                "; branches are of different nets, as runs of one seed begin at different weights: "
                "let the script use the seed that it is given"
            )
        return Prediction(True, words, found.tolerance, found.low, found.high)
