"""What a judge sees at one moment: the rows so far, and the loss that counts as no progress."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.series import Series
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.run_info import RunInfo

CONSTANT = "the loss of the network once it predicted a constant"

#: Losses below which their scatter says nothing.
LEAST_LOSSES = 8


def look_after(rows: int) -> int:
    """Return the row count of a judge's next look: every 8 rows, later every 1/32 of the run."""
    return rows + max(8, rows // 32)


@dataclass(frozen=True)
class Baseline:
    """Loss of the best constant predictor.

    Attributes:
        loss: the number.
        source: where it is from.
    """

    loss: float
    source: str

    def below(self, share: float) -> float:
        """Return the loss that lies this share below the baseline, which may be negative in tasks of other kinds."""
        return self.loss - share * abs(self.loss)

    @property
    def known(self) -> bool:
        """Whether it is that of the task itself: said by the user, or told by the targets that the loss was given."""
        return self.source.startswith(("given", "estimated")) or self.source.endswith("bear out")

    @property
    def sure(self) -> bool:
        """Whether it is no guess: known, or read off a cross-entropy."""
        return self.known or self.source.startswith("assumed")


@dataclass(frozen=True)
class RunPrefix:
    """The first ``n`` rows of a run.

    Attributes:
        series: of the whole network.
        n: rows.
        info: of the run.
        baseline: loss of no progress.
        limits: thresholds of the judge.
    """

    series: Series
    n: int
    info: RunInfo
    baseline: Baseline
    limits: Thresholds

    @property
    def step(self) -> int:
        """Optimizer step of the last row."""
        return int(self.series.step[self.n - 1])

    @property
    def level(self) -> float:
        """Mean loss of the last window."""
        return measures.loss_level(self.series, self.n - self.limits.window, self.n)

    @property
    def end_level(self) -> float:
        """Mean loss of the last 5 % of the rows: what the label is made of."""
        return measures.loss_level(self.series, self.n - max(1, self.n // 20), self.n)

    @property
    def telling(self) -> bool:
        """Whether the loss tells learning from failure: against no baseline does that of an adversary."""
        return self.baseline.known or not self.info.adversary

    @property
    def pushed(self) -> bool:
        """Whether a penalty acts now, and goes on as it is.

        A strength that follows the loss may be gone at the next measurement: it counts once it has stood still for two
        windows, and long enough to have done by itself what a collapse is told by. (Advance L2 raises it a hundredfold
        within 20 steps, and takes it back: analyses/auto_l2.)
        """
        strength = self.series.strength[: self.n]
        if not strength[-1] > 0 or not self.info.steered:
            return bool(strength[-1] > 0)
        changes = np.flatnonzero(strength != strength[-1])
        since = int(changes[-1]) + 1 if len(changes) else 0
        acted = measures.e_foldings(self.series, self.n, since)
        return self.n - since >= 2 * self.limits.window and acted >= self.limits.shrunk

    @property
    def constant(self) -> bool:
        """Whether the output no longer depends on the input, as far as activations were recorded."""
        return measures.output_is_constant(self.series, self.n, self.limits.silent, self.limits.balance)

    @property
    def learned(self) -> bool:
        """Label of the contract, if the run ended here."""
        return self.telling and bool(self.end_level < self.baseline.below(self.limits.improved))

    @property
    def clear(self) -> bool:
        """Whether the losses at the end lie below the baseline by more than they and the first ones scatter."""
        known = measures.losses(self.series, self.n)
        if len(known) < LEAST_LOSSES:  # too few to tell their scatter
            return bool(self.end_level < self.baseline.below(0.5))
        first, last = known[: min(self.limits.window, len(known) // 2)], known[-max(2, len(known) // 20) :]
        error = np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
        return bool(last.mean() + self.limits.standard_errors * error < self.baseline.loss)

    def above(self, share: float, start: int) -> bool:
        """Return whether no window from row ``start`` on has a mean loss below (1 − share) of the baseline loss."""
        known = self.series.loss[start : self.n]
        known = known[np.isfinite(known)]
        length = min(self.limits.window, len(known))
        if not length:
            return False
        sums = np.cumsum(np.insert(known, 0, 0.0))
        return bool((sums[length:] - sums[:-length]).min() / length >= self.baseline.below(share))

    def improvement(self, share: float) -> bool:
        """Return whether a window that ends here is clearly below (1 − share) of the baseline loss."""
        known = measures.losses(self.series, self.n)
        length = self.limits.window
        while length <= min(len(known), max(len(known) // 2, self.limits.window)):
            part = known[-length:]
            spread = part.std(ddof=1) / np.sqrt(length)
            if part.mean() + self.limits.standard_errors * spread < self.baseline.below(share):
                return True
            length *= 2
        return False
