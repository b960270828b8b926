"""Find when a run first learns, when it has left the start behind, when it holds under its penalty."""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.run_prefix import RunPrefix


class Learning:
    """Steps of the first look at which each stage of learning was reached; None before.

    Attributes:
        escaped_step: the loss was clearly below the baseline, so the run learns.
        active_step: the active phase, hence a delay γ: it has left the baseline for good, and a delayed penalty comes
            on.
        settled_step: it holds under its penalty.
        delay_spent: a delay could give it nothing more, for it was in its active phase while no penalty acted, or has
            lost half of its baseline loss under one. A run that only slows down under one may do so because of it.
    """

    def __init__(self) -> None:
        self.escaped_step: int | None = None
        self.active_step: int | None = None
        self.settled_step: int | None = None
        self.delay_spent = False
        self._best: tuple[float, float] = (np.inf, 0.0)

    def see(self, look: RunPrefix) -> None:
        """Take one more look; at a loss that tells nothing there is nothing to see."""
        if not look.telling:
            return
        learns = look.improvement(look.limits.improved)
        if self.escaped_step is None and learns:
            self.escaped_step = look.step
        if self.escaped_step is None:
            return
        floor = self._levelled_off(look) or self._slows(look)  # of a task; what is back at the baseline has none
        half = look.improvement(look.limits.established)
        if self.active_step is None and (half or (learns and floor)):
            self.active_step = look.step
        acts = look.series.strength[look.n - 1] > 0
        if self.active_step is not None and (half or not acts):
            self.delay_spent = True
        if self.settled_step is None and learns and self._holds(look):
            self.settled_step = look.step

    def never_happened(self) -> None:
        """Forget what looked like learning: it was a constant that fitted itself to the classes."""
        self.escaped_step = self.active_step = self.settled_step = None
        self.delay_spent = False

    def _slows(self, look: RunPrefix) -> bool:
        """Return whether the run is four times as old as its escape, and gained half of its progress in the first half.

        Tasks whose loss has a high floor (noisy labels, language) never lose half of their baseline loss. A run that is
        still on its way up gains most of it late, and is waited for.

        Returns:
            True for a run that slows down.
        """
        first = int(look.series.step[0])
        age, escape = look.step + 1 - first, (self.escaped_step or 0) + 1 - first
        if age < look.limits.patient * escape or look.n < 4 * look.limits.window:
            return False
        half = look.n // 2
        then = look.baseline.loss - measures.loss_level(look.series, half - look.limits.window, half)
        return bool(then >= (look.baseline.loss - look.level) / 2 > 0)

    def _levelled_off(self, look: RunPrefix) -> bool:
        """Return whether a good share of the run brought no better loss: this is as active as it gets (noisy tasks)."""
        best, at = self._best
        if look.level < best - 0.01 * abs(look.baseline.loss):
            self._best = (look.level, look.n)
            return False
        return look.n - at > look.limits.patience * look.n

    def _holds(self, look: RunPrefix) -> bool:
        """Return whether the run learns under its penalty, and has shown that the penalty does not undo it.

        A run that learns before its penalty has had time to act (a delayed one, or one with large initial weights) may
        be passing through. Two things show that it is not: half of the loss is gone while the weights fall at less than
        half of the rate at which the penalty alone takes them down; or, after five e-folding times, the weights have
        come to rest.

        Returns:
            True for a run that holds.
        """
        s, n, limits = look.series, look.n, look.limits
        if not look.info.penalised.any():
            return self.active_step is not None
        if not look.pushed:
            return False  # delayed, and not on yet
        _, before = measures.last_windows(s, n, limits.window)
        if measures.loss_level(s, before.start, n) >= look.baseline.below(limits.improved):
            return False
        rate = float(np.nan_to_num(s.rate[n - 1]))
        size = measures.weight_size(s, n)
        if measures.e_foldings(s, n) >= limits.settled:
            return not np.log(size[n - 1] / size[before.start]) < -limits.rest
        start = n - max(limits.window, int(limits.held / rate) if rate > 0 else 0)
        if start < 0 or not (s.strength[start:n] > 0).all():
            return False  # the penalty has not acted for long enough to show what it does
        fall = -np.log(size[n - 1] / size[start])
        alone = rate * (s.step[n - 1] - s.step[start])
        deep = measures.loss_level(s, start, n) < look.baseline.below(limits.established)
        return bool(deep and fall <= alone / 2)
