"""One trial, from the plan to its outcome: what every part of a search hands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from gradscope.run_info import Sibling
from gradscope.types import InputError, Verdict

#: ``train(strength, seed, path)`` trains once and records to the path.
Train = Callable[[float, int, Path], object]

#: The seeds of a search begin at so many times its own seed, so that two searches share none.
SEEDS_APART = 100_000

#: Probability of failure that stands for a trial which says nothing about the penalty.
SILENT = 0.5


class TrialState(StrEnum):
    """State of a trial: asked for, over with an outcome, over without one, or lost with its process."""

    PLANNED = "planned"
    COMPLETE = "complete"
    SILENT = "silent"
    LOST = "lost"


@dataclass(frozen=True)
class Outcome:
    """Evidence of a finished training on the tolerance level, whoever ran it.

    Attributes:
        strength: λ.
        failed: whether it failed by its penalty, a probability where the judge is not sure.
        early: told before the horizon, and so exposed to the judge's errors.
    """

    strength: float
    failed: float
    early: bool = False


@dataclass(frozen=True)
class Trial:
    """Training run at one strength with one seed.

    Attributes:
        number: of the trial in its level, used once.
        strength: λ.
        seed: of the training, used once at a strength.
        audit: it runs to the horizon, whatever the judge thinks.
        schedule: as text, None for a penalty from the start.
        whole: it runs to the horizon, unless it fails.
        state: how far it is.
        failed: the probability that it failed by the penalty.
        steps: that it took.
        epochs: that it took, None where they are not known.
        stopped_early: the judge ended it.
        early_failed: of an audit, what the judge would have stopped it as: True as a failure, None not at all.
        note: why its outcome says nothing, where it does; why it was lost.
        shortfall: so many times its strength would have had the time to show what it does.
        value: the metric at its end, where one was asked for.
        acted: its penalty came on.
        sparsity: the share of penalised weights that are 0 at its end.
        verdict: the judge's word.
        path: of its record.
        fingerprint: mean |w| of each parameter at the first row.
        signal: of its output, as a `Sibling` has it; nothing where its penalty did not act alike from the first row on.
        siblings: of a plan, finished trials that its judge looks at, too; once it is over its record alone keeps them.
    """

    number: int
    strength: float
    seed: int
    audit: bool = False
    schedule: str | None = None
    whole: bool = False
    state: TrialState = TrialState.PLANNED
    failed: float = SILENT
    steps: int = 0
    epochs: int | None = None
    stopped_early: bool = False
    early_failed: bool | None = None
    note: str = ""
    shortfall: float = 1.0
    value: float | None = None
    acted: bool = True
    sparsity: float | None = None
    verdict: str = ""
    path: str = ""
    fingerprint: tuple[float, ...] = ()
    signal: tuple[float, ...] = ()
    siblings: tuple[Sibling, ...] = ()

    def over(self, failed: float, steps: int, **more: Any) -> Trial:
        """Return the trial, run: complete, or silent where its outcome says nothing; ``more``: other attributes."""
        state = TrialState.SILENT if failed == SILENT else TrialState.COMPLETE
        return replace(self, state=state, failed=failed, steps=steps, siblings=(), **more)

    def lost(self, why: str) -> Trial:
        """Return the same trial, without an outcome: its process died, crashed or was out of time."""
        return replace(self, state=TrialState.LOST, note=why)

    @property
    def outcome(self) -> Outcome:
        """The outcome, as the posterior of the tolerance level takes it."""
        return Outcome(self.strength, self.failed, self.stopped_early)

    @property
    def silent(self) -> bool:
        """Whether it says nothing about the penalty."""
        return self.state is TrialState.SILENT

    @property
    def counts(self) -> bool:
        """Whether its metric is that of its strength: it was not found to fail, and its penalty came on."""
        return self.verdict in ("", Verdict.HEALTHY, Verdict.UNDECIDED) and (self.acted or self.strength == 0)

    @property
    def measured(self) -> float | None:
        """The metric, where it is that of its strength."""
        return self.value if self.counts else None

    @property
    def sibling(self) -> Sibling | None:
        """What it is to later trials; None where it says nothing, or lets nothing be compared."""
        known = self.state is TrialState.COMPLETE and self.strength > 0 and self.signal
        return Sibling(self.strength, self.failed > SILENT, self.signal) if known else None

    def asked(self) -> dict[str, Any]:
        """Return the plan alone, as a journal notes it before the trial begins."""
        return {name: getattr(self, name) for name in ("number", "strength", "seed", "audit", "schedule", "whole")}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as a journal keeps them."""
        signal = [x if math.isfinite(x) else None for x in self.signal]
        return asdict(replace(self, siblings=())) | {"signal": signal}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trial:
        """Make a trial of what `as_dict` returned; of a journal that was begun before trials had states, too."""
        signal = tuple(math.nan if x is None else x for x in values.get("signal", ()))
        known = {**values, "fingerprint": tuple(values["fingerprint"]), "signal": signal, "siblings": ()}
        state = known.pop("state", None)
        trial = cls(**known)
        return trial.over(trial.failed, trial.steps) if state is None else replace(trial, state=TrialState(state))

    def shown(self) -> dict[str, Any]:
        """Return plain values, as the JSON of a search holds them."""
        inner = ("fingerprint", "signal", "siblings")
        return {name: value for name, value in self.as_dict().items() if name not in inner}


def epochs_of(trials: Iterable[Trial]) -> int | None:
    """Return the epochs of all trials together, None where one of them does not know."""
    counts = [trial.epochs for trial in trials]
    return None if None in counts or not counts else sum(count for count in counts if count is not None)


def check_seeds(starts: Iterable[tuple[int, tuple[float, ...]]]) -> None:
    """Check that trainings with different seeds begin with different weights.

    Args:
        starts: seed and fingerprint of each training.

    Raises:
        InputError: two begin with the same.
    """
    seen: dict[tuple[float, ...], int] = {}
    for seed, weights in starts:
        other = seen.setdefault(weights, seed)
        if other != seed:
            raise InputError(
                f"seeds {other} and {seed} start from identical weights: the training ignores its seed; pass {{seed}} "
                f"to it, or call torch.manual_seed(int(os.environ['GRADSCOPE_SEED'])) before the model is made"
            )
