"""One attempt at a training: its instructions, how it ended, and the diagnosis of its record."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradscope.diagnosis import measures
from gradscope.diagnosis.cause import PENALTY
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.prediction.from_record import level_of
from gradscope.processes.command import Command, check_strength
from gradscope.processes.instructions import Instructions
from gradscope.quantities import Strength
from gradscope.store.record import Record
from gradscope.types import InputError, Verdict

#: How an attempt can end: by itself, stopped by its own recording on a failure, or broken off.
ENDS = ("itself", "stopped", "crashed", "interrupted", "time limit")


@dataclass(frozen=True)
class Attempt:
    """One run of the training, over.

    Attributes:
        path: its record.
        strength: λ that it was asked to use, None where the script's own stands.
        schedule: the one it was asked to use, None where the script's own stands.
        diagnosis: of the record.
        steps: the step after the last recorded one.
        stopped_step: ``steps``, where gradscope ended it.
        first_step: the one it began with, above 0 after a restart from a checkpoint.
        switched_on: the step at which a penalty first acted, None if none ever did.
        ended: one of `ENDS`.
        delayed: its penalty was off at first.
        acted: e-folding times that its penalty acted for, as far as that can be told.
        level: of one that failed by its penalty, a sentence with the tolerance level that its first rows predict.
    """

    path: Path
    strength: float | None
    schedule: str | None
    diagnosis: Diagnosis
    steps: int
    stopped_step: int | None
    first_step: int = 0
    switched_on: int | None = None
    ended: str = "itself"
    delayed: bool = False
    acted: float = 0.0
    level: str = ""

    @property
    def never_penalised(self) -> bool:
        """Whether it learns and its delayed penalty never came on, so that nothing is known of it under the penalty."""
        return self.delayed and self.switched_on is None and self.diagnosis.verdict is Verdict.HEALTHY

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in ``run.json``."""
        return {
            "path": str(self.path),
            "strength": self.strength,
            "schedule": self.schedule or "constant",
            "stopped_step": self.stopped_step,
            "steps": self.steps,
            "first_step": self.first_step,
            "switched_on": self.switched_on,
            "ended": self.ended,
            "delayed": self.delayed,
            "acted": self.acted,
            "level": self.level,
            "never_penalised": self.never_penalised,
            **self.diagnosis.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Attempt:
        """Make an attempt of what `as_dict` returned."""
        found = {f.name: values[f.name] for f in fields(Diagnosis) if f.name in values}
        own = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        schedule = None if own["schedule"] == "constant" else own["schedule"]
        diagnosis = Diagnosis(**{**found, "verdict": Verdict(found["verdict"])})
        return cls(**{**own, "path": Path(own["path"]), "schedule": schedule, "diagnosis": diagnosis})


def read_attempt(asked: Instructions, ended: str, command: Command | None = None) -> Attempt:
    """Judge the record of an attempt.

    Args:
        asked: instructions of the attempt; ``out`` is the path of its record.
        ended: one of `ENDS`.
        command: the one that was run; with it, the recorded strength is compared with the one asked for.

    Returns:
        The attempt; undecided where it was broken off before its first row.

    Raises:
        InputError: the record shows another strength than the command was asked to use.
    """  # noqa: DOC502 - raised by what it calls
    assert asked.out is not None
    path = Path(asked.out)
    with Record(path) as record:
        if not record.rows:
            nothing = Diagnosis(Verdict.UNDECIDED, False, 0.5, None, None, None, evidence=["no step was recorded"])
            return Attempt(path, asked.strength, asked.schedule, nothing, 0, None, ended=ended)
        if command is not None and asked.strength is not None and ended in ("itself", "stopped"):
            check_strength(path, Strength(asked.strength, command.penalty), record.strength, record.schedule)
        judge = judge_record(record)
        diagnosis = judge.diagnosis(finished=record.finished)
        return Attempt(
            path,
            asked.strength,
            asked.schedule,
            diagnosis,
            record.steps_run,
            stopped_step=record.steps_run if ended == "stopped" else None,
            first_step=asked.resume_step or 0,
            switched_on=record.switched_on,
            ended=ended,
            delayed="delayed:" in record.schedule,
            acted=float(measures.e_foldings(judge.series, len(judge.series))),
            level=_level(record) if diagnosis.failed and diagnosis.cause == PENALTY else "",
        )


def _level(record: Record) -> str:
    """Describe the tolerance level that the first rows predict; empty where they predict none below the strength."""
    found = level_of(record)
    if found.tolerance is None or not found.tolerance < record.strength.value:
        return ""
    level = Strength(found.tolerance, record.penalty)
    return (
        f"its tolerance level is about {level}, 95 % interval of λ {found.low:.2g} … {found.high:.2g} "
        f"({found.reason}; gradscope suggest says it more sharply)"
    )


def check_early(path: Path, asked: Instructions, command: Command) -> bool:
    """Compare the recorded strength with the one asked for; False while there are no rows to compare.

    Asked again until it is True, so that hours are not spent on the wrong strength.

    Returns:
        Whether nothing is left to compare.

    Raises:
        InputError: the strengths differ.
    """  # noqa: DOC502 - raised by what it calls
    if asked.strength is None or not command.takes_strength or asked.schedule is not None:
        return True
    try:
        with Record(path) as record:
            if not record.rows:
                return False
            found, schedule = record.strength, record.schedule
    except InputError:  # not there yet, or in the making
        return False
    check_strength(path, Strength(asked.strength, command.penalty), found, schedule)
    return True


def missing_record(who: str) -> InputError:
    """Make the error of a training that ended without the record that was asked for."""
    return InputError(
        f"{who} ended without a record; does it call gradscope.record (and write to {{out}}, if it takes a path)?"
    )
