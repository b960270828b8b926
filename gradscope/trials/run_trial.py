"""Run one trial: train at one strength with one seed, and judge the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.processes.child import run_child
from gradscope.processes.command import Command, check_strength
from gradscope.processes.instructions import EXIT_STOPPED, Instructions, Stopped, instructed
from gradscope.processes.worker import WorkerLostError
from gradscope.quantities import WEIGHT, Strength
from gradscope.store.record import Record
from gradscope.trials.trial import SILENT, Train, Trial
from gradscope.types import InputError, Verdict

#: A delayed run has to be followed for so many e-folding times after its penalty came on.
FOLLOWED = 5.0
#: Scalars of a step that every record holds, and no loop logs.
OURS = {"epoch", "time", "skipped", "clip_coefficient"}
#: The share of the rows at the end over which a scalar of the steps is averaged, as the label is.
END = 0.05


class MissingRecordError(InputError):
    """Training that ended and left no record."""


class TrialCrashedError(WorkerLostError):
    """Training that ended with an error.

    Args:
        message: what happened, in one line.
        exits: it ended of its own accord, and was not killed.
    """

    def __init__(self, message: str, exits: bool = True) -> None:
        super().__init__(message, exits)
        self.exits = exits

    def __str__(self) -> str:
        return str(self.args[0])


def _asked(plan: Trial, **more: Any) -> Instructions:
    """Make a trial's instructions: an audit runs to the horizon, a whole one until it fails, others to an outcome."""
    failure = "ignore" if plan.audit else "stop"
    success = "ignore" if plan.audit or plan.whole else "stop"
    asked = Instructions(schedule=plan.schedule, on_failure=failure, on_success=success, **more)
    return replace(asked, siblings=plan.siblings or None)


def run_command_trial(command: Command, plan: Trial, path: Path, metric: str | None = None) -> Trial:
    """Run a trial of a training command, as a child of this process.

    Args:
        command: the training command.
        plan: the trial.
        path: of its record.
        metric: to read at its end, None for none.

    Returns:
        The trial, over.

    Raises:
        TrialCrashedError: the command failed.
    """
    asked = _asked(plan, strength=plan.strength, penalty=command.penalty, seed=plan.seed, out=str(path.resolve()))
    words = command.filled(asked)
    path.unlink(missing_ok=True)  # of a worker that died
    outcome = run_child(words, command.environment(asked))
    if not outcome.ended_itself:
        raise TrialCrashedError(outcome.complaint(words), exits=outcome.code > 0)
    return _read(plan, path, outcome.code == EXIT_STOPPED, command.penalty, " ".join(words), metric)


def run_function_trial(train: Train, plan: Trial, path: Path, penalty: str, metric: str | None = None) -> Trial:
    """Run a trial of a plain function in this process.

    Args:
        train: ``train(strength, seed, path)``.
        plan: the trial.
        path: of its record.
        penalty: the word of the penalty that ``train`` uses.
        metric: to read at its end, None for none.

    Returns:
        The trial, over.

    Raises:
        InputError: raised by ``train``, or the record shows something else than was asked for.
        TrialCrashedError: ``train`` raised something else.
    """
    stopped = False
    path.unlink(missing_ok=True)
    with instructed(_asked(plan)):
        try:
            train(plan.strength, plan.seed, path)
        except Stopped:
            stopped = True
        except InputError:
            raise
        except Exception as error:
            raise TrialCrashedError(
                f"train({plan.strength:g}, {plan.seed}, …) raised {type(error).__name__}: {error}"
            ) from error
    return _read(plan, path, stopped, penalty, "the training function", metric)


def _read(plan: Trial, path: Path, stopped: bool, penalty: str, who: str, metric: str | None) -> Trial:
    check_record(path, who)
    with Record(path) as record:
        judge = judge_record(record)
        diagnosis = judge.diagnosis(finished=record.finished)
        acted = bool(record.strength.value)
        check_strength(path, Strength(plan.strength, penalty), record.strength, record.schedule)
        if diagnosis.verdict is Verdict.DIVERGED and diagnosis.onset_step == 0:
            raise InputError(
                f"{who!r} is not finite from its first step (seed {plan.seed}): no matter of the strength; "
                f"check the data, the learning rate and the initialisation"
            )
        first = record.column(WEIGHT.name, 0)
        failed, note, shortfall = _outcome(acted, judge, diagnosis, stopped, schedule_waits(record.schedule))
        value = None if metric is None else _metric(record, metric, diagnosis.failed, stopped)
        return plan.over(
            failed,
            record.steps_run,
            epochs=record.epochs,
            stopped_early=stopped,
            early_failed=early_word(judge) if plan.audit else None,
            note=note,
            shortfall=shortfall,
            value=value,
            acted=acted,
            sparsity=zeros_at_end(record),
            verdict=str(diagnosis.verdict),
            path=str(path),
            fingerprint=tuple(float(x) for x in np.nan_to_num(first)),
            signal=judge.signal,
        )


def metrics_in(record: Record) -> tuple[list[str], list[str]]:
    """Return the names of the scalars by which a record can be compared: those of its epochs, those logged at steps."""
    of_steps = [name for name, dims in record.dims.items() if dims == ("step",) and name not in OURS]
    return [name for name in record.metrics if name != "epoch"], of_steps


def metric_at_end(record: Record, name: str) -> float | None:
    """Read a metric at the end of a run.

    Args:
        record: of the run.
        name: of the metric; one that epochs and steps share is that of the epochs.

    Returns:
        The last finite value of a metric of the epochs, or the mean of a logged scalar over the last 5 % of the rows;
        None where the run ended before there was one.

    Raises:
        InputError: the record does not hold the name; it says which it holds.
    """
    of_epochs, of_steps = metrics_in(record)
    if name in of_epochs:
        values = np.asarray(record.metrics[name], dtype=np.float64)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None
    if name in of_steps:
        last = record.column(name, slice(-max(1, round(END * record.rows)), None)).astype(np.float64)
        finite = last[np.isfinite(last)]
        return float(finite.mean()) if len(finite) else None
    held = ", ".join([*of_epochs, *(n for n in of_steps if n not in of_epochs)]) or "none"
    raise InputError(
        f"{record.path.name} has no metric {name!r}; it holds {held}. Metrics come from "
        f"Recording.epoch(k, {name}=…) or Recording.log({name}=…)"
    )


def zeros_at_end(record: Record) -> float | None:
    """Return the share of the penalised weights that are exactly 0 in the last row; None where nothing tells."""
    share = record.sparsity
    return share if record.info.penalised.any() and np.isfinite(share) else None


def check_record(path: Path, who: str) -> None:
    """Check that a training has left its record.

    Args:
        path: where it should be.
        who: has trained, for the message.

    Raises:
        MissingRecordError: it is not there.
    """
    if not path.exists():
        raise MissingRecordError(
            f"{who!r} ended without the record {path.name}; does it call gradscope.record "
            f"(and write to {{out}}, if it takes a path)?"
        )


def _metric(record: Record, name: str, failed: bool, stopped: bool) -> float | None:
    """Read the metric at the end; None where a run was stopped before it had one, or fails and has no finite value.

    Returns:
        The value.

    Raises:
        InputError: a run that was not stopped and does not fail has no such value.
    """
    try:
        value = metric_at_end(record, name)
    except InputError:
        if stopped:
            return None
        raise
    if value is None and not failed:
        raise InputError(f"{record.path.name}: {name} has no finite value at the end of the run, so it says nothing")
    return value


def schedule_waits(schedule: str) -> bool:
    """Return whether the penalty is off at first."""
    return "delayed:" in schedule


def _outcome(acted: bool, judge: Judge, diagnosis: Diagnosis, stopped: bool, delayed: bool) -> tuple[float, str, float]:
    """Return the probability that the run failed by its penalty; where the record does not tell, why; the shortfall."""
    if diagnosis.verdict is Verdict.UNDECIDED:
        return SILENT, "; ".join(diagnosis.evidence), 1.0
    if diagnosis.failed and not acted:
        return SILENT, "it failed before its penalty came on" if delayed else diagnosis.sentence, 1.0
    if diagnosis.failed or stopped:  # the judge's word
        return diagnosis.probability_failed if stopped else 1.0, "", 1.0
    if delayed and not acted:
        return SILENT, "it ends before its penalty came on", 1.0
    followed = measures.e_foldings(judge.series, len(judge.series))
    if delayed and judge.settled_step is None and followed < FOLLOWED:
        shown = min(followed, FOLLOWED - 0.1)  # never 5.0 of 5
        short = f"it ends {shown:.1f} e-folding times after its penalty came on, {FOLLOWED:g} are needed"
        return SILENT, short, FOLLOWED / max(followed, 1e-6)
    return 0.0, "", 1.0


def early_word(judge: Judge) -> bool | None:
    """Return what the run would have been stopped as: True as a failure, False as learning, None not at all."""
    failed = judge.failure.decided if judge.failure is not None else None
    held = judge.settled_step
    if failed is None and held is None:
        return None
    return held is None or (failed is not None and failed <= held)
