"""Judge a run: is it learning, and if not, since when and why? The same judge live and post hoc.

*Learning* is told by the loss alone: the mean of a window clearly below the baseline loss (`learning`). *Failing* is
told by rules on the weights, the gradients and the loss (`failing`), and earlier, while the weights still fall, by the
calibrated probability that all signals together give (`signals`, `probability`). Time is counted in rows and in
e-folding times of the penalty, never in epochs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradscope.diagnosis import measures, siblings
from gradscope.diagnosis.cause import PENALTY, SLOW, UNKNOWN, Cause
from gradscope.diagnosis.causes import ranked
from gradscope.diagnosis.circumstances import Circumstances
from gradscope.diagnosis.failing import at_the_horizon, collapsed, diverged, doomed, not_finite, relapsed
from gradscope.diagnosis.learning_phase import Learning
from gradscope.diagnosis.origin import Origin
from gradscope.diagnosis.probability import Model, shipped
from gradscope.diagnosis.remedies import SURE, Lower, for_learning, likely, lower, remedy
from gradscope.diagnosis.run_prefix import CONSTANT, Baseline, RunPrefix, look_after
from gradscope.diagnosis.series import GrowingSeries, Rows, network_series
from gradscope.diagnosis.signals import available
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.diagnosis.training_causes import untrained
from gradscope.diagnosis.verdict import Diagnosis, Failure
from gradscope.run_info import RunInfo
from gradscope.types import Verdict

#: Rows up to which a judge keeps every one.
MOST_ROWS = 1 << 16

#: The label is read at the horizon; at three times the horizon it is another one in about this share of the runs.
LABEL_ERROR = 0.01

#: As sure as "undecided" can be, either way.
UNDECIDED = (0.1, 0.9)

#: What to do about a loss that tells nothing.
SAMPLES = "look at what the net does (what it draws, how it plays): this loss measures it by another net"

#: What to do about a baseline that was guessed.
GIVE = "give record(…, baseline_loss=…), the loss of the best constant predictor: this one is a guess"


class Judge:
    """Judge of one run: give it rows as they come, ask it for the diagnosis.

    It looks at fixed row counts (every 8 rows, later every 1/32 of the run), so the verdict does not depend on how the
    rows were cut into blocks. A failure needs ``confirmations`` looks in a row, and once called it stays.
    """

    def __init__(self, info: RunInfo, thresholds: Thresholds | None = None, model: Model | None = None) -> None:
        self.info = info
        self.limits = thresholds or Thresholds()
        self.model = model or shipped()
        self.sibling_model = siblings.shipped_siblings()
        self.learning = Learning()
        self.failure: Failure | None = None
        self.probability = self.beside = np.nan  # by its own signals; beside its siblings
        self.levels: list[float] = []  # of the signal of its output, at every look
        self.baseline = info.baseline_loss
        self.baseline_source = info.baseline_source
        self.lower: Lower | None = None  # a strength to begin with, at the time of a collapse
        self._rows = GrowingSeries()
        self.series = self._rows.view()
        self._origin = Origin(info, self.limits.window)
        self._circumstances = Circumstances(info, self.limits.window)
        self.withdrawn: tuple[Failure, int] | None = None  # a failure that the run disproved, and at which step
        self._disproved = 0
        self._taken = 0
        self._next_look = self.limits.window
        self._agreed = 0

    @property
    def escaped_step(self) -> int | None:
        """First step at which the loss was clearly below the baseline."""
        return self.learning.escaped_step

    @property
    def active_step(self) -> int | None:
        """Step at which the active phase had begun: there a penalty that waits for it comes on."""
        return self.learning.active_step

    @property
    def settled_step(self) -> int | None:
        """Step at which the run had shown that it holds under its penalty."""
        return self.learning.settled_step

    @property
    def signal(self) -> tuple[float, ...]:
        """What the run is to a `Sibling`: nothing where its penalty did not act alike from the first row on."""
        known = np.isfinite(self.levels).any() and siblings.alike(self.series.strength)
        return tuple(self.levels) if known else ()

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
            self._circumstances.see(part)
            if self.failure is None:
                self._origin.see(part)
            if len(self.series) == self._next_look:
                self._next_look = look_after(self._next_look)
                self.levels.append(siblings.level(self.series))
                self._look() if self.failure is None else self._look_again()
            start = stop

    def _thinned(self, rows: Rows) -> Rows:
        """Keep all of the first `MOST_ROWS` rows, every second up to twice as many, every fourth from there, and so on.

        So what is kept grows with the logarithm of a run's length. It depends on the number of a row only: live and
        post hoc keep the same.

        Returns:
            The rows that are kept.
        """
        number = self._taken + np.arange(len(rows["step"]))
        self._taken += len(number)
        if self._taken <= MOST_ROWS:
            return rows
        doublings = np.floor(np.log2(np.maximum(number / MOST_ROWS, 0.5))).astype(int) + 1
        spacing = 2**doublings
        kept = number % spacing == 0
        return {name: np.asarray(values)[kept] for name, values in rows.items()}

    def look(self) -> RunPrefix:
        """Return what there is to see now."""
        if self.baseline_source != CONSTANT:
            step = self.series.step[-1] if len(self.series) else 0
            for since, loss, source in self.info.baseline_history:
                if since <= step:
                    self.baseline, self.baseline_source = loss, source
        if not np.isfinite(self.baseline):
            first = self.series.loss[self.series.step < self.limits.window]
            self.baseline = float(first[np.isfinite(first)].mean()) if np.isfinite(first).any() else np.nan
            self.baseline_source = f"guessed: mean loss of the first {self.limits.window} steps"
        baseline = Baseline(self.baseline, self.baseline_source)
        return RunPrefix(self.series, len(self.series), self.info, baseline, self.limits)

    def _look(self) -> None:
        look = self.look()
        self.learning.see(look)
        self.probability = self.model.of(look) if look.telling else np.nan
        self.beside = siblings.probability(look, len(self.levels) - 1, self.probability, self.sibling_model)
        learns = self.probability < UNDECIDED[0] and not look.constant  # the weights of such runs shrink, too
        found = diverged(look) or (None if learns else collapsed(look)) or doomed(look, self._signs())
        found = found or relapsed(look, self.escaped_step)
        hasty = found is None  # who goes by siblings is sure of a collapse by the penalty, and of nothing else
        found = found or doomed(look, self._beside_siblings())
        self._agreed = self._agreed + 1 if found else 0
        if found and (self._agreed >= self.limits.confirmations or found.verdict is Verdict.DIVERGED):
            failure = self._accepted(found, look)
            late = failure.verdict is Verdict.STALLED and (hasty or failure.causes[0].name in SLOW)
            self.failure = None if late else failure

    def _look_again(self) -> None:
        """Check whether the run disproves a failure that was called; it is withdrawn once, and the evidence says so."""
        if self.withdrawn is not None or self.failure is None or self.failure.verdict is Verdict.DIVERGED:
            return
        look = self.look()
        learns = look.baseline.known and look.improvement(2 * self.limits.improved)
        self._disproved = self._disproved + 1 if learns else 0
        if self._disproved >= 2 * self.limits.confirmations:
            self.withdrawn = self.failure, look.step
            self.failure, self._agreed = None, 0
            self.learning.see(look)
            self.probability = self.model.of(look)

    def _signs(self) -> str:
        """Return in words that its signals together tell of a failure to come; nothing where they do not."""
        sure = self.probability >= self.model.threshold
        return f"such signals came before a failure with probability {self.probability:.3f}" if sure else ""

    def _beside_siblings(self) -> str:
        """Return the same of its place among its siblings."""
        sure = self.beside >= self.sibling_model.threshold
        return siblings.said(self.info.siblings, self.beside) if sure else ""

    def _accepted(self, found: Failure, look: RunPrefix) -> Failure:
        """Complete a finding that stands; the loss of a constant takes the place of a baseline that was assumed."""
        if found.constant_loss is not None:
            self.baseline, self.baseline_source = found.constant_loss, CONSTANT
            below = Baseline(self.baseline, self.baseline_source).below(self.limits.established)
            if measures.best_level(self.series, look.n, self.limits.window) >= below:
                self.learning.never_happened()
        causes = self._ranked(look)
        if found.verdict is Verdict.DIVERGED:  # not by a penalty, which shrinks
            return replace(found, causes=[c for c in causes if c.name not in (PENALTY, UNKNOWN) and c.weight >= 0.5])
        found = replace(found, causes=causes)
        if found.verdict is not Verdict.COLLAPSED:
            return found
        if causes[0].name != PENALTY:  # it fails, and the weights fall, but it would without the penalty too
            return replace(found, verdict=Verdict.STALLED)
        self.lower = lower(look)
        return replace(found, layers=self._origin.layers(), evidence=[*found.evidence, *self._origin.evidence()])

    # -- answering --------------------------------------------------------------------------------

    def diagnosis(self, finished: bool = False) -> Diagnosis:
        """Return what is known now.

        Verdict, probability and remedy are one function of what is known: nobody is called healthy whose signals are
        those of a failure, nor whose loss is back at its baseline.

        Args:
            finished: no more rows will come, so the label itself can be read.

        Returns:
            The diagnosis.
        """
        if finished and len(self.series):
            return self._final(self.look())
        if self.failure is not None:
            return self._failed(self.failure)
        if self.escaped_step is not None:
            return self._healthy(self.look())
        return self._undecided(self._so_far())

    def _undecided(self, evidence: list[str], remedy: str = "") -> Diagnosis:
        """Build the diagnosis where neither is clear; the probability says so, too."""
        low, high = UNDECIDED
        probability = 0.5 if np.isnan(self.probability) else float(np.clip(self.probability, low, high))
        return Diagnosis(
            Verdict.UNDECIDED, False, probability, None, None, self.active_step, evidence=evidence, remedy=remedy
        )

    def learned(self) -> bool:
        """Return the label, if the run ended here: its last 5 % of rows are 5 % better than the baseline."""
        return self.look().learned

    def _final(self, look: RunPrefix) -> Diagnosis:
        """Decide by the label at the horizon: the last 5 % of the rows against the baseline."""
        judged = self._reached(look) and self._last_loss() >= look.n // 2
        # A constant can go on getting better, up to the best constant: that is not learning.
        constant = self.failure is not None and not look.baseline.known and look.constant
        enough = look.baseline.sure or (look.clear and not self.probability > 0.5)  # a guess is off by its scatter
        if judged and look.learned and not constant and enough:
            return self._healthy(look, LABEL_ERROR)
        if self.failure is not None:
            return self._failed(self.failure)
        bad = measures.not_finite(look.series, look.n)
        if bad.all() or (judged and bad[-1]):
            return self._failed(not_finite(look))
        if not judged:
            return self._unfinished(look)
        if not look.telling:
            more, remedy = likely(self._ranked(look))
            return self._undecided(self._against_baseline(look) + more, remedy or SAMPLES)
        found = at_the_horizon(look)
        if found.verdict is not Verdict.COLLAPSED and self.info.part_of_loss < 1 - 0.5 * self.limits.improved:
            return self._healthy_in_part(look)
        if found.verdict is Verdict.STALLED and not look.baseline.sure and not self._at_chance(look):
            return self._undecided([*self._against_baseline(look), "no better than a guess is no evidence"], GIVE)
        return replace(self._failed(self._accepted(found, look)), probability_failed=1 - LABEL_ERROR)

    def _unfinished(self, look: RunPrefix) -> Diagnosis:
        """Return what is known of a run that has ended before its horizon, or while it went on getting better."""
        said = self.diagnosis()
        if said.verdict is not Verdict.UNDECIDED:
            return said
        evidence, step = list(said.evidence), int(look.series.step[-1])
        if self.info.horizon is not None and not self._reached(look):
            evidence.insert(0, f"it ended at step {step}, before the {self.info.horizon} steps that were planned")
        elif self._reached(look):
            pass
        elif look.n < 4 * self.limits.window:
            evidence.insert(0, f"it ended after {look.n} rows: too few to tell")
        else:
            share = (look.baseline.loss - look.end_level) / abs(look.baseline.loss)
            side = "below" if share > 0 else "above"
            evidence.insert(0, f"it ended while the loss was falling, {abs(share):.1%} of the baseline {side} it")
        more, remedy = likely(self._ranked(look))
        return replace(said, evidence=evidence + more, remedy=remedy or said.remedy)

    def _ranked(self, look: RunPrefix) -> list[Cause]:
        return ranked(look, self._circumstances.facts(), learned=self.escaped_step is not None)

    def _last_loss(self) -> int:
        """Return the last row with a loss, -1 if there is none: a loss of the first rows tells nothing of the end."""
        known = np.flatnonzero(np.isfinite(self.series.loss))
        return int(known[-1]) if known.size else -1

    def _reached(self, look: RunPrefix) -> bool:
        """Return whether the run ended at its horizon."""
        step = look.series.step
        if self.info.horizon is not None:
            spacing = step[-1] - step[-2] if look.n > 1 else 1  # of a run that is not recorded at every step
            return bool(step[-1] + spacing >= self.info.horizon)
        # The end of a run that nobody planned is taken for its horizon, unless it is hardly a run.
        improving = measures.still_improving(look.series, look.n, self.limits.standard_errors)
        # What a constant still gains on its way to the best constant is no progress.
        return look.n >= 4 * self.limits.window and not (improving and not look.constant)

    def _at_chance(self, look: RunPrefix) -> bool:
        """Return whether the loss ends where a cross-entropy of equal classes does, for classes that were guessed."""
        guessed = look.baseline.source.startswith("guessed: entropy")
        return guessed and abs(look.end_level / look.baseline.loss - 1) < 0.03

    def _against_baseline(self, look: RunPrefix) -> list[str]:
        kind = self.info.loss_kind
        if not look.telling:
            return [f"the loss is {look.level:.4g}, and no baseline tells what that means; its kind is {kind}"]
        unknown = f"; the kind of loss is {kind}" if kind.startswith("unknown") and not look.baseline.known else ""
        said = [f"the loss is {look.level:.4g}, the baseline {self.baseline:.4g} ({self.baseline_source}){unknown}"]
        if self.withdrawn is not None:
            failure, step = self.withdrawn
            said.append(f"called {failure.verdict} at step {failure.decided}, and taken back at step {step}: it learns")
        return said

    def _healthy(self, look: RunPrefix, probability: float | None = None) -> Diagnosis:
        """Build the diagnosis of a run that learns. ``probability``: that it fails all the same, if known."""
        evidence = self._against_baseline(look)
        acted = bool(np.nan_to_num(look.series.strength[: look.n]).any())
        if self.info.penalised.any() and not acted:
            evidence.append("its penalty has not come on: how it learns under it, the record does not tell")
        level = look.level if probability is None else look.end_level
        if not level < look.baseline.below(0.5 * self.limits.improved):
            since = f"the loss was clearly below the baseline at step {self.escaped_step}, and is back there"
            return self._undecided([*evidence, since, *self._assumed()], "" if look.baseline.sure else GIVE)
        found = (0.02 if np.isnan(self.probability) else self.probability) if probability is None else probability
        if found > 0.5:
            signals = f"the loss has fallen, but such signals come before a failure (probability {found:.2f})"
            return self._undecided([*evidence, signals, *self._assumed()])
        return Diagnosis(
            Verdict.HEALTHY, False, found, None, self.escaped_step, self.active_step,
            evidence=evidence + self._assumed(),
            remedy=self._for_what_is_trained(look) or (for_learning(acted) if look.baseline.sure else GIVE),
            baseline_guessed=not look.baseline.sure,
        )  # fmt: skip

    def _for_what_is_trained(self, look: RunPrefix) -> str:
        """Tell what to do about a run that learns while nothing trains most of its weights; empty for any other."""
        found = untrained(look, self._circumstances.facts())
        if found is None or found.weight < SURE:
            return ""
        return f"it learns with what is trained: if the rest is not left out on purpose, {found.remedy}"

    def _healthy_in_part(self, look: RunPrefix) -> Diagnosis:
        """Build the diagnosis of a run whose other terms take what the data's part of the loss has gained."""
        part = f"its part {self.info.loss_kind} is {self.info.part_of_loss:.2g} of its own baseline or less"
        evidence = [*self._against_baseline(look), f"{part}: the net learns, and other terms of the loss take that up"]
        return Diagnosis(
            Verdict.HEALTHY, False, UNDECIDED[0], None, None, self.active_step, evidence=evidence + self._assumed(),
            remedy="none needed for learning: whether the other terms are worth what they take is another question",
        )  # fmt: skip

    def _failed(self, failure: Failure) -> Diagnosis:
        causes = failure.causes
        said = [f"{cause.name}: {'; '.join(cause.evidence)}" for cause in causes if cause.evidence]
        begin = self.lower.words(self.info.penalty) if self.lower else ""
        return Diagnosis(
            failure.verdict,
            failed=True,
            probability_failed=max(self.model.threshold, *np.nan_to_num([self.probability, self.beside]).tolist()),
            onset_step=failure.onset,
            decided_step=failure.decided,
            active_step=self.active_step,
            layers=failure.layers,
            evidence=failure.evidence + said + self._assumed(),
            remedy=remedy(
                failure.verdict, self.learning.delay_spent, causes, begin, self.lower.bound if self.lower else ""
            ),
            cause=causes[0].name if causes else "",
            causes=[cause.as_dict() for cause in causes],
        )

    def _assumed(self) -> list[str]:
        """List what had to be assumed, and what could not be used."""
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
