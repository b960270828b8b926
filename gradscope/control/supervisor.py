"""Runs a training command under a restart policy; the whole history is one folder with one run.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.child import EXIT_STOPPED, Command, Instructions, check_strength, run_child
from gradscope.control.policy import Attempt, DelayedRestart
from gradscope.diagnosis.post_hoc import diagnose
from gradscope.diagnosis.tolerance import recorded_strength
from gradscope.store.reader import open_run
from gradscope.types import InputError


@dataclass(frozen=True)
class RunResult:
    """What came of a supervised run."""

    learned: bool
    reason: str
    out: Path
    attempts: tuple[Attempt, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "learned": self.learned,
            "reason": self.reason,
            "out": str(self.out),
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


def supervise(
    command: Command,
    policy: DelayedRestart,
    out: Path,
    *,
    strength: float | None = None,
    seed: int = 0,
    show: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> RunResult:
    """Run the command, judge it, and start it again as the policy says.

    ``out``: a new folder for the records and ``run.json``. ``show``: pass the child's output on to standard
    error. ``say``: told about each attempt. Raises `InputError` if the command cannot be used.
    """
    if strength is not None:
        checks.strength(strength)
    folder = checks.writable_folder(out)
    if (folder / "run.json").exists():
        raise InputError(f"{folder} already holds a run (run.json); give another folder with --out")
    attempts: list[Attempt] = []
    while (decision := policy.ask()).start:
        number = len(attempts) + 1
        asked = Instructions(
            strength=strength,
            penalty=command.penalty if strength is not None else None,
            schedule=decision.schedule,
            seed=seed,
            out=str(_free(folder, number).resolve()),
            on_failure="stop",
        )
        say(f"attempt {number}: {decision.reason or 'from the start'}")
        attempt = _attempt(command, asked, show)
        attempts.append(attempt)
        policy.tell(attempt)
        say(f"attempt {number}: {attempt.diagnosis.sentence}")
        _write(folder, RunResult(not attempt.diagnosis.failed, "running", folder, tuple(attempts)))
    result = RunResult(not attempts[-1].diagnosis.failed, decision.reason, folder, tuple(attempts))
    _write(folder, result)
    return result


def _free(folder: Path, number: int) -> Path:
    """Where the next attempt records. A record that a call which broke off has left there is kept."""
    while (path := folder / f"attempt-{number}.h5").exists():
        number += 1
    return path


def _attempt(command: Command, asked: Instructions, show: bool) -> Attempt:
    words = command.filled(asked)
    outcome = run_child(words, command.environment(asked), show=show)
    if not outcome.ended_itself:
        raise InputError(outcome.complaint(words))
    assert asked.out is not None
    path = Path(asked.out)
    if not path.exists():
        raise InputError(
            f"the command {' '.join(words)!r} ended without a record; does it call gradscope.record "
            f"(and write to {{out}}, if it takes a path)?"
        )
    with open_run(path) as dataset:
        diagnosis = diagnose(dataset)
        steps = int(dataset["step"].values[-1]) + 1
        if asked.strength is not None:
            schedule = json.loads(dataset.attrs["config"])["schedule"]
            found = recorded_strength(dataset)
            check_strength(path, asked.strength, command.penalty, found, dataset.attrs["penalty"], schedule)
    stopped = steps if outcome.code == EXIT_STOPPED else None
    return Attempt(path, asked.strength, asked.schedule, diagnosis, steps, stopped)


def _write(folder: Path, result: RunResult) -> None:
    """Replace run.json in one go: at any moment it is whole."""
    fresh = folder / "run.json.new"
    with fresh.open("w") as file:
        json.dump(result.as_dict(), file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / "run.json")
