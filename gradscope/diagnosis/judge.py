"""Is this run learning, and if not, since when and why? The same judge live and post hoc.

What it looks at, and why (Park et al., section 2.2, made into a test):

* *Learning* is told by the loss alone: the mean of a window clearly below the baseline loss. The
  first such window is the active phase.
* *Collapse* is told by the weights: the penalty has shrunk them by a factor of e, the loss gradient
  has shrunk with them, and the **radial balance** B = −Σ⟨w, ∂L/∂w⟩ / Σ⟨w, λ∂Ω/∂w⟩ (what the loss
  does for the size of the weights over what the penalty does against it) is close to 0 and not
  rising. In a net of L layers the loss gradient falls like the (L−1)-th power of the weights, the
  penalty's like the first: with B near 0 the penalty wins a little more with every step.

Time is counted in rows and in measured shrinkage, never in epochs. All thresholds are shares of the
run's own quantities; they stand together in `Thresholds`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.series import Array, GrowingSeries, Rows, RunInfo, network_series
from gradscope.diagnosis.verdict import Diagnosis, Failure, remedy
from gradscope.types import Verdict


@dataclass(frozen=True)
class Thresholds:
    """Every number the judge uses, all dimensionless."""

    improved: float = 0.05  # share of the baseline loss that counts as learning (the label's own 5 %)
    established: float = 0.5  # share at which the active phase has carried the run far enough for a penalty
    standard_errors: float = 3.0  # how clearly a window has to differ
    window: int = 16  # rows in the shortest window
    shrunk: float = 1.0  # ln of the factor by which weights have to have shrunk
    silent: float = 1e-3  # share of its output that depends on the input, below which a network is a constant
    balance: float = 0.1  # radial balance below which the loss no longer holds the weights
    rising: float = 1.25  # a balance that grew by this factor from one window to the next is rising
    settled: float = 5.0  # e-folding times after which a run that learns has shown that it holds
    held: float = 0.25  # e-folding times over which a run that holds is watched
    rest: float = 0.05  # ln of the factor by which weights at rest may still shrink in one e-folding time
    confirmations: int = 2  # evaluations in a row that have to agree before a failure is called
    exploded: float = 20.0  # multiple of the baseline loss that counts as divergence
    vanishing: float = 1e-3  # share by which the loss gradient could move the weights over the whole run
    patience: float = 0.5  # share of the run so far without a better loss: the active phase has levelled off


#: Rows up to which a judge keeps every one.
KEPT = 1 << 16

CONSTANT = "the loss of the network once it predicted a constant"


class Judge:
    """Follows one run: give it rows as they come, ask it what it thinks.

    It looks at fixed row counts (every 8 rows, later every 1/32 of the run), so the verdict does not
    depend on how the rows were cut into blocks. A failure, once called, stays.
    """

    def __init__(self, info: RunInfo, thresholds: Thresholds | None = None) -> None:
        self.info = info
        self.limits = thresholds or Thresholds()
        self._rows = GrowingSeries()
        self._taken = 0
        self.series = self._rows.view()
        self.active_step: int | None = None
        self.established_step: int | None = None
        self.settled_step: int | None = None
        self.failure: Failure | None = None
        self._next_look = self.limits.window
        self._agreed = 0
        self._layer_gradients: list[Array] = []
        self._held: list[Array] = []  # the last rows of the block before
        self._best: tuple[float, float] = (np.inf, 0.0)
        self.baseline = info.baseline_loss
        self.baseline_source = info.baseline_source

    # -- taking rows ------------------------------------------------------------------------------

    def update(self, rows: Rows) -> None:
        """Take a block of rows, in order."""
        rows = self._thinned(rows)
        block = network_series(rows, self.info)
        if not len(block):
            return
        self._rows.extend(block)
        self.series = self._rows.view()
        gradients = rows.get("loss_gradient_mean_abs")
        held = None
        if gradients is not None:
            held = np.concatenate([*self._held, np.asarray(gradients, dtype=np.float64)])
            self._held = [held[-self.limits.window :]]
        while self._next_look <= len(self.series):
            n = self._next_look
            if held is not None:
                end = len(held) - (len(self.series) - n)
                self._layer_gradients.append(held[max(0, end - self.limits.window) : end].mean(0))
            self._look(n)
            self._next_look = n + max(8, n // 32)

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

    def _look(self, n: int) -> None:
        if self.failure is not None:
            return
        if not np.isfinite(self.baseline):
            first = self.series.loss[:n][self.series.step[:n] < self.limits.window]
            self.baseline = float(first[np.isfinite(first)].mean()) if np.isfinite(first).any() else np.nan
            self.baseline_source = f"guessed: mean loss of the first {self.limits.window} steps"
        self._look_for_learning(n)
        found = self._divergence(n) or self._collapse(n)
        self._agreed = self._agreed + 1 if found else 0
        if found and (self._agreed >= self.limits.confirmations or found.verdict is Verdict.DIVERGED):
            layers = self._layers() if found.verdict is Verdict.COLLAPSED else []
            self.failure = replace(self._accepted(found, n), layers=layers)

    def _accepted(self, found: Failure, n: int) -> Failure:
        """A finding that stands: the loss of a constant takes the place of a baseline that was assumed."""
        if found.constant_loss is not None:
            self.baseline, self.baseline_source = found.constant_loss, CONSTANT
            if measures.best_level(self.series, n, self.limits.window) >= self._below(self.limits.established):
                self.active_step = self.established_step = self.settled_step = None  # it never learned after all
        return found

    # -- learning ---------------------------------------------------------------------------------

    def improvement(self, n: int, share: float) -> bool:
        """True if a window that ends at row n is clearly below (1 − share) of the baseline loss."""
        known = measures.losses(self.series, n)
        length = self.limits.window
        while length <= min(len(known), max(len(known) // 2, self.limits.window)):
            part = known[-length:]
            spread = part.std(ddof=1) / np.sqrt(length)
            if part.mean() + self.limits.standard_errors * spread < self._below(share):
                return True
            length *= 2
        return False

    def _below(self, share: float) -> float:
        """The loss that lies this share below the baseline (which may be negative in tasks of other kinds)."""
        return self.baseline - share * abs(self.baseline)

    @property
    def _given(self) -> bool:
        """Whether the user has said what the baseline is."""
        return self.baseline_source.startswith("given")

    @property
    def _sure(self) -> bool:
        """Whether the baseline is that of the task, given or read off a cross-entropy, and no guess."""
        return self.baseline_source.startswith(("given", "assumed"))

    def _look_for_learning(self, n: int) -> None:
        step = int(self.series.step[n - 1])
        learns = self.improvement(n, self.limits.improved)
        if self.active_step is None and learns:
            self.active_step = step
        if self.active_step is None:
            return
        if self.established_step is None and (self.improvement(n, self.limits.established) or self._levelled_off(n)):
            self.established_step = step
        if self.settled_step is None and learns and self._holds(n):
            self.settled_step = step

    def _levelled_off(self, n: int) -> bool:
        """No better loss for a good share of the run: this is as active as it gets (noisy tasks)."""
        level = measures.loss_level(self.series, n - self.limits.window, n)
        best, at = self._best
        if level < best - 0.01 * abs(self.baseline):
            self._best = (level, n)
            return False
        return n - at > self.limits.patience * n

    def _holds(self, n: int) -> bool:
        """The run learns under its penalty, and has shown that the penalty does not undo it.

        A run that learns before its penalty has had time to act (a delayed one, or one with large initial
        weights) may be passing through. Two things show that it is not: half of the loss is gone while
        the weights fall at less than half of the rate at which the penalty alone takes them down; or, after
        five e-folding times, the weights have come to rest.
        """
        s, limits = self.series, self.limits
        if not self.info.penalised.any():
            return self.established_step is not None
        if not s.strength[n - 1] > 0:
            return False  # delayed, and not on yet
        _, before = measures.last_windows(s, n, limits.window)
        if measures.loss_level(self.series, before.start, n) >= self._below(limits.improved):
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
        return bool(measures.loss_level(self.series, start, n) < self._below(limits.established) and fall <= alone / 2)

    # -- failing ----------------------------------------------------------------------------------

    def _divergence(self, n: int) -> Failure | None:
        limits = self.limits
        if measures.not_finite(self.series, n)[-limits.window // 2 :].all():
            return self._not_finite(n)
        start = n - limits.window
        level = measures.loss_level(self.series, start, n)
        early = self.series.loss[: limits.window]
        early = early[np.isfinite(early)]
        usual = max(np.nan_to_num(self.baseline), float(np.median(early)) if early.size else 0.0)
        if level > limits.exploded * usual > 0:
            step = self.series.step
            evidence = [f"the loss is {level:.3g}, {level / usual:.0f} times what it was or the baseline is"]
            return Failure(Verdict.DIVERGED, int(step[n - 1]), int(step[start]), evidence)
        return None

    def _not_finite(self, n: int) -> Failure:
        step = self.series.step
        first = int(step[np.flatnonzero(measures.not_finite(self.series, n))[0]])
        return Failure(Verdict.DIVERGED, int(step[n - 1]), first, [f"loss or weights are not finite from step {first}"])

    def _collapse(self, n: int) -> Failure | None:
        s, limits = self.series, self.limits
        if not s.strength[n - 1] > 0 or np.isnan(s.gradient[n - 1]):
            return None
        start = measures.shrinking_since(s, n)
        now, _ = measures.last_windows(s, n, limits.window)
        first = slice(start, start + max(1, limits.window // 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            shrunk = float(np.log(s.weight[start] / s.weight[n - 1]))
            faded = float(np.log(s.gradient[first].mean() / s.gradient[now].mean()))
        silent = self._constant(n)
        if shrunk < limits.shrunk or not (silent or faded >= limits.shrunk / 2):
            return None
        balance, before = (measures.radial_balance(s, part) for part in measures.last_windows(s, n, limits.window))
        held = balance > limits.balance or balance > limits.rising * np.nanmax([before, 0.01])
        if held and not silent:
            return None
        level = measures.loss_level(s, now.start, n)
        improved = level < self._below(limits.improved)
        if improved and (self._given or not silent):
            return None
        # What looks like progress is then the best constant, below a baseline that was assumed: classes
        # need not be equal.
        baseline, source = (level, CONSTANT) if improved else (self.baseline, self.baseline_source)
        evidence = [
            f"since step {s.step[start]:.0f} mean |w| fell to {np.exp(-shrunk):.3g} "
            f"and mean |∂L/∂w| to {np.exp(-faded):.3g} of what they were",
            f"the loss is {level:.4g}, the baseline {baseline:.4g} ({source})",
        ]
        if silent:
            evidence.append("the output no longer depends on the input")
        if np.isnan(balance):
            evidence.append("the radial balance could not be used: ⟨w, ∂L/∂w⟩ or ‖w‖ is not in the record")
        else:
            evidence.append(
                f"radial balance {balance:.2g}: the loss gives back {max(balance, 0) * 100:.1f} % of what "
                f"the penalty takes from the weights"
            )
        constant_loss = level if improved else None
        return Failure(Verdict.COLLAPSED, int(s.step[n - 1]), int(s.step[start]), evidence, constant_loss=constant_loss)

    def _constant(self, n: int) -> bool:
        return measures.output_is_constant(self.series, n, self.limits.silent, self.limits.balance)

    # -- answering --------------------------------------------------------------------------------

    def diagnosis(self, finished: bool = False) -> Diagnosis:
        """What is known now. ``finished``: no more rows will come, so the label itself can be read."""
        n = len(self.series)
        if finished and n >= 1:
            return self._final(n)
        if self.failure is not None:
            return self._failed(self.failure)
        if self.active_step is not None:
            return self._healthy()
        return Diagnosis(Verdict.UNDECIDED, False, 0.5, None, None, None, evidence=self._so_far(n))

    def _final(self, n: int) -> Diagnosis:
        """At the horizon the label decides: the last 5 % of the rows against the baseline."""
        s, horizon = self.series, self.info.horizon
        if horizon is None:
            # The end of a run that nobody planned is taken for its horizon, unless it is hardly a run.
            reached = n >= 4 * self.limits.window and not measures.still_improving(s, n, self.limits.standard_errors)
        else:
            spacing = s.step[-1] - s.step[-2] if n > 1 else 1  # of a run that is not recorded at every step
            reached = bool(s.step[-1] + spacing >= horizon)
        judged = reached and not np.isnan(s.loss).all()
        # A constant can go on getting better, up to the best constant: that is not learning.
        constant = self.failure is not None and not self._given and self._constant(n)
        if judged and self._label(n) and not constant:
            return self._healthy()
        if self.failure is not None:
            return self._failed(self.failure)
        bad = measures.not_finite(self.series, n)
        if bad.all() or (judged and bad[-1]):
            return self._failed(self._not_finite(n))
        if not judged:
            return self.diagnosis()
        found = self._stalled(n)
        if found.verdict is Verdict.STALLED and not self._sure and not self._at_chance(n):
            return self.diagnosis()  # no better than a guess is no evidence
        return self._failed(found)

    def _at_chance(self, n: int) -> bool:
        """The loss ends where a cross-entropy of equal classes does, for the classes that were guessed."""
        level = measures.loss_level(self.series, n - max(1, n // 20), n)
        return self.baseline_source.startswith("guessed: entropy") and abs(level / self.baseline - 1) < 0.03

    def learned(self) -> bool:
        """The label, if the run ended here: its last 5 % of rows are 5 % better than the baseline."""
        return self._label(len(self.series))

    def _label(self, n: int) -> bool:
        return bool(measures.loss_level(self.series, n - max(1, n // 20), n) < self._below(self.limits.improved))

    def _stalled(self, n: int) -> Failure:
        s = self.series
        last = int(s.step[-1])
        found = self._collapse(n)
        if found:
            return self._accepted(found, n)
        level = measures.loss_level(self.series, n - max(1, n // 20), n)
        evidence = [f"the loss ends at {level:.4g}, the baseline is {self.baseline:.4g} ({self.baseline_source})"]
        # The label is one definition; what the run looked like before the weights ran out is another.
        size = measures.weight_size(s, n)
        start = measures.shrinking_since(s, n)
        shrunk = np.log(max(size[start], 1e-300) / max(size[n - 1], 1e-300))
        if np.nanmax(s.strength) > 0 and shrunk >= self.limits.shrunk:
            evidence.append(f"the weights fell to {np.exp(-shrunk):.3g} of what they were at step {s.step[start]:.0f}")
            return Failure(Verdict.COLLAPSED, last, int(s.step[start]), evidence)
        move = np.nansum(s.gradient) / max(float(s.weight[0]), 1e-300)
        if move < self.limits.vanishing:
            evidence.append(f"all loss gradients together are {move:.2g} of the size of the weights")
            return Failure(Verdict.VANISHING, last, int(s.step[0]), evidence)
        evidence.append("the weights did not collapse: no progress, for another reason than the penalty")
        return Failure(Verdict.STALLED, last, int(s.step[0]), evidence)

    def _healthy(self) -> Diagnosis:
        s = self.series
        level = measures.loss_level(self.series, max(0, len(s) - self.limits.window), len(s))
        evidence = [f"the loss is {level:.4g}, the baseline {self.baseline:.4g} ({self.baseline_source})"]
        return Diagnosis(
            Verdict.HEALTHY,
            False,
            0.02,
            None,
            self.active_step,
            self.active_step,
            evidence=evidence,
            remedy="none needed",
        )

    def _failed(self, failure: Failure) -> Diagnosis:
        return Diagnosis(
            failure.verdict,
            failed=True,
            probability_failed=0.98,
            onset_step=failure.onset,
            decided_step=failure.decided,
            active_step=self.active_step,
            layers=failure.layers,
            evidence=failure.evidence,
            remedy=remedy(failure.verdict, self.active_step is not None, bool(self.info.penalised.any())),
        )

    def _layers(self) -> list[str]:
        """The watched parameters whose loss gradient faded most, worst first, at most three."""
        if len(self._layer_gradients) < 2:
            return []
        first, last = self._layer_gradients[0], self._layer_gradients[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            faded = np.where(self.info.watched, np.log(first / last), -np.inf)
        order = [int(i) for i in np.argsort(-np.nan_to_num(faded, nan=-np.inf)) if faded[i] > 0]
        return [self.info.parameters[i] for i in order[:3]]

    def _so_far(self, n: int) -> list[str]:
        if not n:
            return ["no rows yet"]
        if np.isnan(self.series.loss).all():
            return [f"{n} rows, none with a loss: call Recording.log(loss=…) so that learning can be told"]
        return [f"{n} rows; neither learning nor a collapse is clear yet"]
