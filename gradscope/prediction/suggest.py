"""Predict the tolerance level of a training from some dozens of its steps, or say why they do not tell."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.card import card
from gradscope.prediction.ask_tell import PROBES, Prediction, Prober
from gradscope.prediction.branches import BranchProber
from gradscope.prediction.level_reader import DELAYED, FILE, Reader, shipped
from gradscope.prediction.probing import ProbeResult, Run, of_command, of_function, probed
from gradscope.processes.command import Command
from gradscope.quantities import Strength, weight_decay
from gradscope.trials.trial import Train
from gradscope.types import InputError

#: Penalties that a reader has been made for.
PENALTIES = ("l2", "l1")


@dataclass(frozen=True)
class Suggestion:
    """The level that probes predict.

    Attributes:
        penalty: ``l2`` or ``l1``.
        prediction: the level with its interval, or why there is none.
        probes: the probes that were run.
        horizon: steps of a whole run, where its record tells.
        out: the folder of the probes' records.
        delayed: whether the level is the delayed one.
        delay: steps before its penalty came on, None where there was no delay.
    """

    penalty: str
    prediction: Prediction
    probes: tuple[ProbeResult, ...]
    horizon: int | None
    out: Path
    delayed: bool = False
    delay: int | None = None

    @property
    def determined(self) -> bool:
        """Whether there is a level."""
        return self.prediction.determined

    @property
    def tolerance(self) -> float | None:
        """λ*, None where there is none."""
        return self.prediction.tolerance

    @property
    def low(self) -> float | None:
        """Lower end of the interval, None where there is none."""
        return self.prediction.low

    @property
    def high(self) -> float | None:
        """Upper end of the interval, None where there is none."""
        return self.prediction.high

    @property
    def reason(self) -> str:
        """What the level rests on, or why there is none."""
        return self.prediction.reason

    @property
    def steps_run(self) -> int:
        """Steps of all probes, that without a penalty among them."""
        return sum(p.steps for p in self.probes)

    @property
    def share(self) -> float | None:
        """The steps as a share of one whole run; None where its length is not known."""
        return None if self.horizon is None else self.steps_run / self.horizon

    @property
    def range(self) -> tuple[float, float] | None:
        """Where a search should look: a decade to each side, as the prediction is no promise."""
        return None if self.tolerance is None else (self.tolerance / 10, self.tolerance * 10)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``gradscope suggest --json`` prints."""
        p = self.prediction
        return {
            "determined": p.determined,
            "penalty": self.penalty,
            "delayed": self.delayed,
            "delay": self.delay,
            "tolerance": p.tolerance,
            "low": p.low,
            "high": p.high,
            "confidence": p.confidence,
            "weight_decay": weight_decay(p.tolerance, self.penalty),
            "steps_run": self.steps_run,
            "horizon": self.horizon,
            "share_of_run": self.share,
            "probes": [vars(probe) for probe in self.probes],
            "reason": p.reason,
        }

    def _repr_html_(self) -> str:
        """Draw a card for notebooks."""
        p = self.prediction
        facts: dict[str, object] = {"penalty": self.penalty, "steps": self.steps_run}
        if p.determined and p.tolerance is not None:
            facts["delayed level" if self.delayed else "tolerance level"] = str(Strength(p.tolerance, self.penalty))
            facts[f"{p.confidence:.0%} interval"] = f"{p.low:.3g} to {p.high:.3g}"
        return card(p.reason, "healthy" if p.determined else "undecided", facts=facts)


def suggest_strength(
    train: Train,
    *,
    penalty: str = "l2",
    delayed: bool = False,
    start: float | None = None,
    probes: int = PROBES,
    out: str | Path | None = None,
    seed: int = 0,
    on_probe: Callable[[ProbeResult], None] | None = None,
) -> Suggestion:
    """Predict the tolerance level of a training from a few probes of some dozens of steps.

    Args:
        train: ``train(strength, seed, path)`` trains once and records to ``path`` with `gradscope.record`, which ends
            each probe once it has its rows. It runs in this process.
        penalty: ``"l2"`` or ``"l1"`` (by proximal steps), the one that ``train`` uses; checked against the record.
        delayed: predict the delayed level instead, with the penalty off until the active phase. Each probe is then a
            whole run to that phase, and 80 steps after it.
        start: the strength to probe first. Default: what a run without a penalty points to.
        probes: probes under a penalty at most.
        out: a folder for the probes' records. Default: a new one.
        seed: of the first run; the others' follow.
        on_probe: called after each probe.

    Returns:
        The level with an interval that held 95 % of families that the reader had not seen, or the reason why there is
        none: normalised nets, trainings that do not learn without a penalty, and others.

    Raises:
        InputError: the training cannot be probed, or something given cannot be used.
    """  # noqa: DOC502 - raised by what it calls
    return _suggest(of_function(train), penalty, delayed, start, probes, out, seed, on_probe)


def suggest_command(
    command: Command,
    *,
    delayed: bool = False,
    start: float | None = None,
    probes: int = PROBES,
    out: str | Path | None = None,
    seed: int = 0,
    on_probe: Callable[[ProbeResult], None] | None = None,
    executor: Executor | None = None,
) -> Suggestion:
    """Predict the tolerance level of a training command; each probe is a process that the executor starts."""
    return _suggest(of_command(command, executor), command.penalty, delayed, start, probes, out, seed, on_probe)


def _suggest(
    run: Run,
    penalty: str,
    delayed: bool,
    start: float | None,
    probes: int,
    out: str | Path | None,
    seed: int,
    on_probe: Callable[[ProbeResult], None] | None,
    readers: Mapping[str, Reader] | None = None,
) -> Suggestion:
    if checks.penalty_word(penalty) not in PENALTIES:
        raise InputError(f"the penalty is {penalty}; a level is predicted for l2 and l1 only: take gradscope search")
    if start is not None and checks.strength(start, "start") == 0:
        raise InputError("start is 0; expected a strength above 0, or none, so that it is guessed")
    checks.positive_int(probes, "probes")
    checks.whole_number(seed, "seed")
    given = tempfile.mkdtemp(prefix="gradscope-suggest-") if out is None else out
    folder = checks.output_folder(given, "out").resolve()
    made = shipped(DELAYED if delayed else FILE) if readers is None else readers
    prober = (BranchProber if delayed else Prober)(made, checks.penalty_word(penalty), start, probes, seed)
    results = probed(prober, run, folder, on_probe or (lambda _: None))
    delay = max((result.delay for result in results), default=0) or None
    return Suggestion(prober.penalty, prober.prediction(), tuple(results), prober.horizon, folder, delayed, delay)
