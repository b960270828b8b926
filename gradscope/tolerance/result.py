"""Result of a search, and its progress on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.card import card
from gradscope.quantities import Strength, weight_decay
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import EarlyErrors, Posterior, ToleranceEstimate, advice
from gradscope.trials.trial import Trial, epochs_of

#: Parts of the range that was asked for, in the density of a line of progress.
BINS = 32


@dataclass(frozen=True)
class Progress:
    """Progress of a search after a trial.

    Attributes:
        level: name of the level.
        trial: the one that is over, None if it was lost.
        lost: why it came to no outcome, None if it did not.
        estimate: of the level so far.
        trials: that are over.
        steps: of all of them together.
        epochs: of all of them together, None where they are not known.
        rest: about how many trials are still to come.
        density: the posterior of the level over the range asked for, in equal parts of a logarithmic axis, [32].
    """

    level: str
    trial: Trial | None
    lost: str | None
    estimate: ToleranceEstimate
    trials: int
    steps: int
    epochs: int | None
    rest: int
    density: tuple[float, ...]

    @classmethod
    def of(
        cls, level: str, search: ToleranceSearch, trials: Sequence[Trial], trial: Trial | None,
        lost: str | None,
    ) -> Progress:  # fmt: skip
        """Summarise where a search stands after a trial, or a lost one."""
        steps, epochs = sum(t.steps for t in trials), epochs_of(trials)
        known, rest = search.estimate(), search.rest()
        return cls(level, trial, lost, known, len(trials), steps, epochs, rest, _density(search))


def _density(search: ToleranceSearch) -> tuple[float, ...]:
    """Bin the posterior of the level in equal parts of the range that was asked for."""
    posterior = search.posterior
    low, high = np.log10(search.range)
    counts, _ = np.histogram(np.clip(posterior.level, low, high), BINS, (low, high), weights=posterior.weights.sum(1))
    return tuple(float(c) for c in counts)


@dataclass(frozen=True)
class ToleranceResult:
    """Result of a search for the tolerance level.

    Attributes:
        penalty: its word.
        estimate: of the level, with its interval.
        delayed: of the level with a delay, None where it was not asked for.
        trials: of the level.
        delayed_trials: of the level with a delay.
        out: the search folder.
        errors: how often the judge's early word was wrong, by the audits of this search.
        lost: trials that came to no outcome.
        posterior: what ``estimate`` was read from.
        delayed_posterior: what ``delayed`` was read from.
        predicted: what probes said before the trials: ``tolerance``, ``low``, ``high`` (None where they say nothing),
            ``reason``, ``steps``, and whether a probe was ``lost``; None without probes.
    """

    penalty: str
    estimate: ToleranceEstimate
    delayed: ToleranceEstimate | None
    trials: tuple[Trial, ...]
    delayed_trials: tuple[Trial, ...] = ()
    out: Path | None = None
    errors: EarlyErrors = field(default_factory=EarlyErrors)
    lost: int = 0
    posterior: Posterior | None = field(default=None, repr=False)
    delayed_posterior: Posterior | None = field(default=None, repr=False)
    predicted: dict[str, Any] | None = None

    @property
    def determined(self) -> bool:
        """Whether the trials say where the level is."""
        return self.estimate.determined

    @property
    def tolerance(self) -> float | None:
        """The tolerance level λ*, None where it is not determined."""
        return self.estimate.tolerance

    @property
    def low(self) -> float | None:
        """Lower end of its 95 % interval."""
        return self.estimate.low

    @property
    def high(self) -> float | None:
        """Upper end of its 95 % interval."""
        return self.estimate.high

    @property
    def steps_run(self) -> int:
        """Optimizer steps of all trials together; those of probes are in ``predicted``."""
        return sum(t.steps for t in (*self.trials, *self.delayed_trials))

    @property
    def epochs_run(self) -> int | None:
        """Epochs of all trials together, None where they are not known."""
        return epochs_of((*self.trials, *self.delayed_trials))

    @property
    def advice(self) -> str:
        """Strengths at which 19 of 20 runs learn, in a sentence."""
        return advice(self.penalty, self.estimate, self.delayed)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as ``gradscope search --json`` prints them."""
        e = self.estimate
        told: dict[str, Any] = {
            "determined": e.determined,
            "reason": e.reason,
            "penalty": self.penalty,
            "tolerance": e.tolerance,
            "low": e.low,
            "high": e.high,
            "confidence": e.confidence,
            "weight_decay": weight_decay(e.tolerance, self.penalty),
            "slope": e.slope,
            "safe": e.safe,
            "trials": len(self.trials) + len(self.delayed_trials),
            "lost": self.lost,
            "audits": sum(t.audit for t in (*self.trials, *self.delayed_trials)),
            "early_errors": {"alarms": self.errors.alarms, "misses": self.errors.misses},
            "steps_run": self.steps_run,
            "epochs_run": self.epochs_run,
            "advice": self.advice,
            "runs": [t.shown() for t in (*self.trials, *self.delayed_trials)],
        }
        if self.predicted is not None:
            told["predicted"] = self.predicted
        if self.delayed is not None:
            d = self.delayed
            told |= {"delayed_tolerance": d.tolerance, "delayed_low": d.low, "delayed_high": d.high}
            told |= {"delayed_slope": d.slope, "delayed_safe": d.safe, "delayed_reason": d.reason}
        return told

    def _repr_html_(self) -> str:
        """Draw a card for notebooks."""
        e = self.estimate
        facts: dict[str, object] = {"penalty": self.penalty, "trials": len(self.trials) + len(self.delayed_trials)}
        if e.determined and e.tolerance is not None and e.low is not None and e.high is not None:
            facts["tolerance level"] = str(Strength(e.tolerance, self.penalty))
            facts[f"{e.confidence:.0%} interval"] = f"{e.low:.3g} to {e.high:.3g}"
        if self.delayed is not None and self.delayed.tolerance is not None:
            facts["with a delay"] = str(Strength(self.delayed.tolerance, self.penalty))
        return card(self.advice, "healthy" if e.determined else "undecided", facts=facts)
