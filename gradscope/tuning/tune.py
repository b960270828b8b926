"""Tune a strength: from a training, a metric and a range to the strength worth using."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from gradscope.extras import missing
from gradscope.processes.command import Command
from gradscope.trials.search_session import Training, Where, executor_here, session
from gradscope.trials.trial import Train, Trial
from gradscope.tuning.ask_tell import StrengthTuning
from gradscope.tuning.result import TuneProgress, TuneResult, concluded
from gradscope.types import InputError

#: The level of all trials in the journal, and the beginning of the names of their records.
LEVEL = "tune"


def tune_strength(
    train: Train,
    low: float,
    high: float,
    *,
    metric: str,
    mode: str = "max",
    penalty: str = "l2",
    delayed: bool = False,
    workers: int | None = None,
    executor: str | Executor | None = None,
    out: str | Path | None = None,
    cost: float = 0.01,
    repeats: int = 5,
    max_trials: int = 40,
    seed: int = 0,
    timeout: float | None = None,
    on_trial: Callable[[TuneProgress], None] | None = None,
) -> TuneResult:
    """Find the strength with the best metric, what it gains over no penalty, and how much stronger costs little.

    Not the tolerance level, beyond which nothing is learned (`search_tolerance`). Runs that fail are ended early by the
    recording; the others run to their end. Needs scikit-learn (extra ``tune``).

    Args:
        train: ``train(strength, seed, path)`` trains once and records to ``path`` with `gradscope.record`; a strength
            of 0 is no penalty. Where trials run in processes of their own it has to be importable by name.
        low: the weakest strength to look at.
        high: the strongest strength to look at.
        metric: a metric given to `Recording.epoch` (its last value counts), or a scalar given to `Recording.log` (its
            mean over the last 5 % of the rows).
        mode: ``max`` or ``min``: which metric is the better one.
        penalty: the penalty that ``train`` uses, checked against the record.
        delayed: try strengths with ``delayed:auto``, too.
        workers: trials at a time.
        executor: as in `search_tolerance`.
        out: the search folder; a search that was interrupted carries on there. Default: a new one.
        cost: the share of the best metric that the largest useful strength may cost.
        repeats: pairs of runs, with seeds of their own, that compare the best strength with no penalty.
        max_trials: trials at most.
        seed: of the trials.
        timeout: seconds after which a trial counts as lost (not with an executor of your own).
        on_trial: called after each trial.

    Returns:
        The best strength, its gain, and the largest strength that costs little.

    Raises:
        InputError: something given cannot be used, the record does not hold the metric, or scikit-learn is missing.
    """  # noqa: DOC502 - raised by what it calls
    training = Training.of_function(train, penalty, _metric(metric))
    tuning = StrengthTuning(
        low, high, mode=mode, delayed=delayed, cost=cost, repeats=repeats, max_trials=max_trials, seed=seed
    )
    where = Where(executor_here(workers, timeout, executor), workers, timeout, out)
    return _tune(training, tuning, metric, seed, where, on_trial)


def tune_command(
    command: Command,
    low: float,
    high: float,
    *,
    metric: str,
    mode: str = "max",
    delayed: bool = False,
    workers: int | None = None,
    executor: str | Executor = "local",
    out: str | Path | None = None,
    cost: float = 0.01,
    repeats: int = 5,
    max_trials: int = 40,
    seed: int = 0,
    timeout: float | None = None,
    on_trial: Callable[[TuneProgress], None] | None = None,
) -> TuneResult:
    """Do what `tune_strength` does for a training command; each trial is a process of its own."""
    training = Training.of_command(command, _metric(metric))
    tuning = StrengthTuning(
        low, high, mode=mode, delayed=delayed, cost=cost, repeats=repeats, max_trials=max_trials, seed=seed
    )
    return _tune(training, tuning, metric, seed, Where(executor, workers, timeout, out), on_trial)


def _metric(name: str) -> str:
    """Check what can be checked before anything is trained.

    Returns:
        The name of the metric.

    Raises:
        InputError: it is no name, or a package is missing.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"metric is {name!r}; expected the name of a metric of Recording.epoch, such as accuracy")
    for package in ("sklearn", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise InputError(missing("tuning a strength", "sklearn", "tune"))
    return name


def _tune(
    training: Training,
    tuning: StrengthTuning,
    metric: str,
    seed: int,
    where: Where,
    on_trial: Callable[[TuneProgress], None] | None,
) -> TuneResult:
    low, high = tuning.range
    settings: dict[str, Any] = {"low": float(low), "high": float(high), "seed": seed, "metric": metric}
    settings |= {"mode": "max" if tuning.sign > 0 else "min", "delayed": tuning.delayed}
    with session(training, settings, where) as runner:
        journal = runner.journal

        def heard(trial: Trial | None, lost: str | None) -> None:
            if on_trial is not None:
                done = journal.trials.get(LEVEL, [])
                best = tuning.finalists[0].strength if tuning.finalists else None
                steps = sum(t.steps for t in done)
                on_trial(TuneProgress(trial, lost, best, len(done), steps, tuning.rest()))

        runner.level(LEVEL, tuning, heard)
    lost = len(journal.lost.get(LEVEL, ()))
    return concluded(tuning, journal.trials.get(LEVEL, []), training.settings["penalty"], metric, lost, runner.folder)
