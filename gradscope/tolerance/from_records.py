"""Estimate the tolerance level from a set of recorded runs that differ in strength and seed only."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.siblings import nearest
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import weight_decay
from gradscope.run_info import Sibling
from gradscope.store.record import Record
from gradscope.store.settings import flat
from gradscope.tolerance.posterior import advice, estimate_tolerance
from gradscope.trials.trial import Outcome
from gradscope.types import InputError, Verdict

#: What runs of one level need not share. A commit between two runs is no other training: the settings tell that.
MAY_DIFFER = ("seed", "git_revision")
#: From so many records on it pays to start a process a core: each takes some tenths of a second.
MANY = 64


@dataclass(frozen=True)
class RunSummary:
    """One record, as far as a tolerance level is concerned.

    Attributes:
        path: the file.
        strength: λ.
        diagnosis: the judge's.
        steps: that were run.
        epochs: that were run, None where unknown.
        settings: as one flat table.
        early: ended before its horizon.
        signal: of its output, as a `Sibling` has it.
    """

    path: Path
    strength: float
    diagnosis: Diagnosis
    steps: int
    epochs: int | None
    settings: dict[str, str]
    early: bool  # ended before its horizon
    signal: tuple[float, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The outcome: a label read at the horizon is certain; before it, the judge says how sure it is."""
        found = self.diagnosis
        return Outcome(self.strength, found.probability_failed if self.early else float(found.failed), self.early)

    @property
    def sibling(self) -> Sibling | None:
        """What it is to the others; None where it says nothing."""
        known = self.diagnosis.verdict is not Verdict.UNDECIDED and self.strength > 0 and self.signal
        return Sibling(self.strength, self.diagnosis.failed, self.signal) if known else None

    def value(self, by: str) -> str:
        """Return the value of a setting; of a group of settings (``shapes``) all that is in it."""
        if by in self.settings:
            return self.settings[by].strip('"')
        inside = [f"{k.removeprefix(by + '.')} {v}" for k, v in self.settings.items() if k.startswith(by + ".")]
        return ", ".join(inside) or "none"


def tolerance_of_runs(paths: Sequence[Path], by: str | None = None, processes: int = 1) -> dict[str, Any]:
    """Estimate the level, as `gradscope tolerance --json` prints it; with ``by``, one a value of that setting.

    Args:
        paths: the records.
        by: a setting, or a group of settings, in which they may differ.
        processes: of `MANY` records and more, so many read them side by side. Started anew: a script that calls this
            needs ``if __name__ == "__main__"``.

    Returns:
        Plain values.

    Raises:
        InputError: no run has the setting, or the runs differ in more than strength and seed.
    """
    runs = _summaries(paths, processes)
    if by is not None and all(run.value(by) == "none" for run in runs):
        raise InputError(f"--by is {by!r}; the runs have {', '.join(sorted(runs[0].settings))}")
    _check_alike(runs, by)
    if by is None:
        return _level(runs)
    values = sorted({run.value(by) for run in runs})
    return {"by": by, "levels": {value: _level([run for run in runs if run.value(by) == value]) for value in values}}


def outcomes_of(paths: Sequence[Path], processes: int = 1) -> tuple[str, list[Outcome]]:
    """Return the penalty and the outcomes of these runs, for a figure of them."""
    runs = _usable(_beside(_summaries(paths, processes)))
    return runs[0].settings["penalty"] if runs else "none", [run.outcome for run in runs]


def _summaries(paths: Sequence[Path], processes: int) -> list[RunSummary]:
    """Summarise each record, in order; raise `InputError` for the first that cannot be read."""
    if len(paths) < MANY or processes == 1:
        return [_summary(path) for path in paths]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        with _deaf_to_interrupts():  # an interrupt is for us alone: theirs would be a traceback
            found = pool.map(_summary, paths, chunksize=4)
        try:
            return list(found)
        except BaseException:  # one that cannot be read, an interrupt: the rest is for nothing
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that ignore SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _beside(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Judge runs of one configuration that ended early with nothing decided again, beside those that tell."""
    known = [sibling for run in runs if (sibling := run.sibling) is not None]
    return [
        _summary(run.path, nearest(run.strength, known))
        if run.early and run.diagnosis.verdict is Verdict.UNDECIDED and run.strength > 0 and known
        else run
        for run in runs
    ]


def _summary(path: Path, siblings: tuple[Sibling, ...] = ()) -> RunSummary:
    with Record(path) as record:
        settings = flat({name: value for name, value in record.config.items() if name not in MAY_DIFFER})
        settings = {name: value for name, value in settings.items() if not name.endswith(".weight_decay")}
        settings["penalty"] = record.penalty
        settings["horizon"] = str(record.attributes.get("horizon", -1))
        judge = judge_record(record, siblings=siblings)
        return RunSummary(
            path=path,
            strength=record.strength.value,
            diagnosis=judge.diagnosis(finished=record.finished),
            steps=record.steps_run,
            epochs=record.epochs,
            settings=settings,
            early=not record.finished if record.horizon is None else record.steps_run < record.horizon,
            signal=judge.signal,
        )


def _check_alike(runs: Sequence[RunSummary], by: str | None) -> None:
    first = runs[0]
    for other in runs[1:]:
        for name in sorted({*first.settings, *other.settings}):
            if by is not None and (name == by or name.startswith(by + ".")):
                continue
            here, there = first.settings.get(name, "none"), other.settings.get(name, "none")
            if here != there:
                raise InputError(
                    f"the runs differ in {name}: {here} in {first.path}, {there} in {other.path}; give runs that "
                    f"differ in strength and seed only, or --by {name}"
                )


def _usable(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Select runs with an outcome and a penalty."""
    return [run for run in runs if run.diagnosis.verdict is not Verdict.UNDECIDED and run.strength > 0]


def _level(runs: Sequence[RunSummary]) -> dict[str, Any]:
    runs = _beside(runs)
    usable = _usable(runs)
    estimate = estimate_tolerance([run.outcome for run in usable])
    penalty = runs[0].settings["penalty"]
    epochs = [run.epochs for run in runs]
    return {
        "determined": estimate.determined,
        "reason": estimate.reason,
        "penalty": penalty,
        "tolerance": estimate.tolerance,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "weight_decay": weight_decay(estimate.tolerance, penalty),
        "slope": estimate.slope,
        "safe": estimate.safe,
        "trials": len(usable),
        "advice": advice(penalty, estimate, None),
        "steps_run": sum(run.steps for run in runs),
        "epochs_run": None if None in epochs else sum(e for e in epochs if e is not None),
        "runs": [
            {
                "path": str(run.path),
                "strength": run.strength,
                "verdict": str(run.diagnosis.verdict),
                "failed": run.diagnosis.failed,
                "steps": run.steps,
            }
            for run in runs
        ],
    }
