"""Is this run learning, and if not, since when and why? The same judge live and post hoc.

*Learning* is told by the loss alone: the mean of a window clearly below the baseline loss (`learning`). *Failing*
is told by rules on the weights, the gradients and the loss (`failing`), and earlier, while the weights still fall, by
the calibrated probability that all signals together give (`signals`, `probability`).

Time is counted in rows and in e-folding times of the penalty, never in epochs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.failing import (
    at_the_horizon,
    collapse_found,
    collapsed,
    diverged,
    falls,
    not_finite,
    relapsed,
)
from gradscope.diagnosis.learning import Learning
from gradscope.diagnosis.looks import CONSTANT, Baseline, Look
from gradscope.diagnosis.origin import Origin
from gradscope.diagnosis.probability import Model, shipped
from gradscope.diagnosis.remedies import for_learning, in_words, remedy, strength_that_holds
from gradscope.diagnosis.series import GrowingSeries, Rows, network_series
from gradscope.diagnosis.signals import available
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.diagnosis.verdict import Diagnosis, Failure
from gradscope.run_info import RunInfo
from gradscope.types import Verdict

#: Rows up to which a judge keeps every one.
KEPT = 1 << 16

#: The label is read at the horizon; at three times the horizon it is another one in about this share of the runs.
LABEL_ERROR = 0.01


class Judge:
    """Follows one run: give it rows as they come, ask it what it thinks.

    It looks at fixed row counts (every 8 rows, later every 1/32 of the run), so the verdict does not
    depend on how the rows were cut into blocks. A failure needs ``confirmations`` looks in a row, and once
    called it stays.
    """

    def __init__(self, info: RunInfo, thresholds: Thresholds | None = None, model: Model | None = None) -> None:
        self.info = info
        self.limits = thresholds or Thresholds()
        self.model = model or shipped()
        self.learning = Learning()
        self.failure: Failure | None = None
        self.probability = np.nan
        self.baseline = info.baseline_loss
        self.baseline_source = info.baseline_source
        self.holds: float | None = None  # a strength that would have held, at the time of a collapse
        self._rows = GrowingSeries()
        self.series = self._rows.view()
        self._origin = Origin(info, self.limits.window)
        self._taken = 0
        self._next_look = self.limits.window
        self._agreed = 0

    @property
    def active_step(self) -> int | None:
        """The first step at which the run had escaped: a delay γ ends no earlier."""
        return self.learning.active_step

    @property
    def established_step(self) -> int | None:
        """The step at which a penalty may come on."""
        return self.learning.established_step

    @property
    def settled_step(self) -> int | None:
        """The step at which the run had shown that it holds under its penalty."""
        return self.learning.settled_step

    # -- taking rows ------------------------------------------------------------------------------

    def update(self, rows: Rows) -> None:
        """Take a block of rows, in order."""
        rows = self._thinned(rows)
        start, n = 0, len(rows["step"])
        while start < n:  # up to the next look, so that a look never sees beyond itself
            stop = min(n, start + self._next_look - len(self.series))
            part = {name: values[start:stop] for name, values in rows.items()}
            self._rows.extend(network_series(part, self.info))
            self.series = self._rows.view()
            if self.failure is None:
                self._origin.see(part)
            if len(self.series) == self._next_look:
                self._next_look += max(8, self._next_look // 32)
                if self.failure is None:
                    self._look()
            start = stop

    def _thinned(self, rows: Rows) -> Rows:
        """All of the first `KEPT` rows, every second up to twice as many, every fourth from there, and so on.

        So what is kept grows with the logarithm of a run's length. It hangs on the number of a row only: live and
        post hoc keep the same.
        """
        number = self._taken + np.arange(len(rows["step"]))
        self._taken += len(number)
        if self._taken <= KEPT:
            return rows
        doublings = np.floor(np.log2(np.maximum(number / KEPT, 0.5))).astype(int) + 1
        spacing = 2**doublings
        kept = number % spacing == 0
        return {name: np.asarray(values)[kept] for name, values in rows.items()}

    def look(self) -> Look:
        """What there is to see now."""
        if not np.isfinite(self.baseline):
            first = self.series.loss[self.series.step < self.limits.window]
            self.baseline = float(first[np.isfinite(first)].mean()) if np.isfinite(first).any() else np.nan
            self.baseline_source = f"guessed: mean loss of the first {self.limits.window} steps"
        baseline = Baseline(self.baseline, self.baseline_source)
        return Look(self.series, len(self.series), self.info, baseline, self.limits)

    def _look(self) -> None:
        look = self.look()
        self.learning.see(look)
        self.probability = self.model.of(look)
        found = diverged(look) or collapsed(look) or self._doomed(look) or relapsed(look, self.active_step)
        self._agreed = self._agreed + 1 if found else 0
        if found and (self._agreed >= self.limits.confirmations or found.verdict is Verdict.DIVERGED):
            self.failure = self._accepted(found, look)

    def _doomed(self, look: Look) -> Failure | None:
        """Not collapsed yet, but the signals say that it will: the weights fall, and the probability is high."""
        if not self.probability >= self.model.threshold or not falls(look):
            return None
        now, _ = measures.last_windows(look.series, look.n, self.limits.window)
        start = measures.shrinking_since(look.series, look.n)
        found = collapse_found(look, start, measures.radial_balance(look.series, now))
        if found is None:
            return None
        said = f"such signals came before a failure with probability {self.probability:.3f}"
        return replace(found, evidence=[*found.evidence, said])

    def _accepted(self, found: Failure, look: Look) -> Failure:
        """A finding that stands: the loss of a constant takes the place of a baseline that was assumed."""
        if found.constant_loss is not None:
            self.baseline, self.baseline_source = found.constant_loss, CONSTANT
            below = Baseline(self.baseline, self.baseline_source).below(self.limits.established)
            if measures.best_level(self.series, look.n, self.limits.window) >= below:
                self.learning.never_happened()
        if found.verdict is not Verdict.COLLAPSED:
            return found
        self.holds = strength_that_holds(look)
        return replace(found, layers=self._origin.layers(), evidence=[*found.evidence, *self._origin.evidence()])

    # -- answering --------------------------------------------------------------------------------

    def diagnosis(self, finished: bool = False) -> Diagnosis:
        """What is known now. ``finished``: no more rows will come, so the label itself can be read."""
        if finished and len(self.series):
            return self._final(self.look())
        if self.failure is not None:
            return self._failed(self.failure)
        if self.active_step is not None:
            return self._healthy()
        probability = 0.5 if np.isnan(self.probability) else self.probability
        return Diagnosis(Verdict.UNDECIDED, False, probability, None, None, None, evidence=self._so_far())

    def learned(self) -> bool:
        """The label, if the run ended here: its last 5 % of rows are 5 % better than the baseline."""
        return self.look().learned

    def _final(self, look: Look) -> Diagnosis:
        """At the horizon the label decides: the last 5 % of the rows against the baseline."""
        judged = self._reached(look) and self._last_loss() >= look.n // 2
        # A constant can go on getting better, up to the best constant: that is not learning.
        constant = self.failure is not None and not look.baseline.given and look.constant
        if judged and look.learned and not constant:
            return replace(self._healthy(), probability_failed=LABEL_ERROR)
        if self.failure is not None:
            return self._failed(self.failure)
        bad = measures.not_finite(look.series, look.n)
        if bad.all() or (judged and bad[-1]):
            return self._failed(not_finite(look))
        if not judged:
            return self.diagnosis()
        found = at_the_horizon(look)
        if found.verdict is Verdict.STALLED and not look.baseline.sure and not self._at_chance(look):
            return self.diagnosis()  # no better than a guess is no evidence
        return replace(self._failed(self._accepted(found, look)), probability_failed=1 - LABEL_ERROR)

    def _last_loss(self) -> int:
        """The last row with a loss, -1 if there is none: a loss of the first rows tells nothing of the end."""
        known = np.flatnonzero(np.isfinite(self.series.loss))
        return int(known[-1]) if known.size else -1

    def _reached(self, look: Look) -> bool:
        """Whether the run ended at its horizon."""
        step = look.series.step
        if self.info.horizon is not None:
            spacing = step[-1] - step[-2] if look.n > 1 else 1  # of a run that is not recorded at every step
            return bool(step[-1] + spacing >= self.info.horizon)
        # The end of a run that nobody planned is taken for its horizon, unless it is hardly a run.
        improving = measures.still_improving(look.series, look.n, self.limits.standard_errors)
        return look.n >= 4 * self.limits.window and not improving

    def _at_chance(self, look: Look) -> bool:
        """The loss ends where a cross-entropy of equal classes does, for the classes that were guessed."""
        guessed = look.baseline.source.startswith("guessed: entropy")
        return guessed and abs(look.end_level / look.baseline.loss - 1) < 0.03

    def _healthy(self) -> Diagnosis:
        look = self.look()
        evidence = [f"the loss is {look.level:.4g}, the baseline {self.baseline:.4g} ({self.baseline_source})"]
        return Diagnosis(
            Verdict.HEALTHY,
            False,
            0.02 if np.isnan(self.probability) else self.probability,
            None,
            self.active_step,
            self.active_step,
            evidence=evidence + self._assumed(),
            remedy=for_learning(bool(self.info.penalised.any())),
        )

    def _failed(self, failure: Failure) -> Diagnosis:
        penalised = bool(self.info.penalised.any())
        holds = in_words(self.holds, self.info.penalty)
        return Diagnosis(
            failure.verdict,
            failed=True,
            probability_failed=max(self.model.threshold, float(np.nan_to_num(self.probability))),
            onset_step=failure.onset,
            decided_step=failure.decided,
            active_step=self.active_step,
            layers=failure.layers,
            evidence=failure.evidence + self._assumed(),
            remedy=remedy(failure.verdict, self.active_step is not None, penalised, holds),
        )

    def _assumed(self) -> list[str]:
        """What had to be assumed, and what could not be used."""
        said = []
        if self.info.horizon is None:
            said.append("no horizon was given: the end of the record is taken for it")
        missing = {"activations": "activation signals", "balance": "the radial balance"}
        lacking = [text for need, text in missing.items() if need not in available(self.look())]
        if lacking:
            said.append(f"not in the record, so not used: {', '.join(lacking)}")
        return said

    def _so_far(self) -> list[str]:
        n = len(self.series)
        if not n:
            return ["no rows yet"]
        if np.isnan(self.series.loss).all():
            return [f"{n} rows, none with a loss: call Recording.log(loss=…) so that learning can be told"]
        if (last := self._last_loss()) < n // 2:
            step = int(self.series.step[max(last, 0)])
            return [f"{n} rows, no finite loss after step {step}: log one at each step, so that learning can be told"]
        return [f"{n} rows; neither learning nor a collapse is clear yet", *self._assumed()]
