"""Search for the tolerance level: from a training and a range to the level and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.prediction.suggest import PENALTIES
from gradscope.processes.command import Command
from gradscope.tolerance.ask_tell import ToleranceSearch, early_errors
from gradscope.tolerance.prior_from_probes import Predicting, prior, worth_predicting
from gradscope.tolerance.result import Progress, ToleranceResult
from gradscope.trials.runner import Beside
from gradscope.trials.search_session import Training, Where, executor_here, session
from gradscope.trials.trial import Train, Trial
from gradscope.types import InputError


@dataclass(frozen=True)
class Settings:
    """Settings of both levels of a search.

    Attributes:
        precision: as in `ToleranceSearch`.
        max_trials: as in `ToleranceSearch`.
        seed: as in `ToleranceSearch`.
    """

    precision: float
    max_trials: int
    seed: int


def search_tolerance(
    train: Train,
    low: float,
    high: float,
    *,
    penalty: str = "l2",
    delayed: bool = False,
    workers: int | None = None,
    executor: str | Executor | None = None,
    out: str | Path | None = None,
    precision: float = 0.1,
    max_trials: int = 40,
    seed: int = 0,
    timeout: float | None = None,
    predict: bool | None = None,
    on_trial: Callable[[Progress], None] | None = None,
    on_prediction: Callable[[dict[str, Any]], None] | None = None,
) -> ToleranceResult:
    """Find the strength at which half of the runs fail to learn, with a 95 % interval.

    Args:
        train: ``train(strength, seed, path)`` trains once and records to ``path`` with `gradscope.record`. Trials are
            ended early, on either outcome, by the recording. Where trials run in processes of their own it has to be
            importable by name (a function of a module).
        low: the weakest strength to look at.
        high: the strongest strength to look at.
        penalty: the penalty that ``train`` uses, checked against the record.
        delayed: find the delayed tolerance too, with the penalty off until the active phase.
        workers: trials at a time.
        executor: ``"local"``: a process a trial on this machine; ``"dask://HOST:PORT"``; or any
            `concurrent.futures.Executor`. Default: in this very process for one worker, else ``"local"``.
        out: the search folder; a search that was interrupted carries on there. Default: a new one.
        precision: width of the interval to reach, in decades.
        max_trials: trials at most, a level.
        seed: of the placement of trials and of the trials themselves.
        timeout: seconds after which a trial counts as lost (not with an executor of your own).
        predict: read the level from a few short probes first (`suggest_strength`), as the prior of the search. A
            function is probed only where that is asked for, as it may do more than train.
        on_trial: called after each trial.
        on_prediction: called with what the probes predict: ``tolerance``, ``low``, ``high`` (None where they do not),
            ``reason``, ``steps``. Not where a probe could not be run: the trials will say what that means.

    Returns:
        The level with its interval, or why the trials do not determine it.

    Raises:
        InputError: the range, the folder, the executor or the training function cannot be used.
    """  # noqa: DOC502 - raised by what it calls
    training = Training.of_function(train, penalty)
    how = Settings(precision, max_trials, seed)
    where = Where(executor_here(workers, timeout, executor), workers, timeout, out)
    keep = predict is not False
    return _search(training, low, high, how, delayed, where, bool(predict), keep, on_trial, on_prediction)


def search_command(
    command: Command,
    low: float,
    high: float,
    *,
    delayed: bool = False,
    workers: int | None = None,
    executor: str | Executor = "local",
    out: str | Path | None = None,
    precision: float = 0.1,
    max_trials: int = 40,
    seed: int = 0,
    timeout: float | None = None,
    predict: bool | None = None,
    on_trial: Callable[[Progress], None] | None = None,
    on_prediction: Callable[[dict[str, Any]], None] | None = None,
) -> ToleranceResult:
    """Do what `search_tolerance` does for a training command; each trial is a process of its own.

    A level is predicted by default where the range is wider than a decade, the penalty is L2 or L1, and the command is
    a script whose processes are forked here, so that a probe costs its steps alone.

    Returns:
        The level with its interval, or why the trials do not determine it.
    """
    training = Training.of_command(command)
    keep = predict is not False
    if predict is None:
        predict = executor == "local" and worth_predicting(command.penalty, low, high, training.scripts)
    how = Settings(precision, max_trials, seed)
    where = Where(executor, workers, timeout, out)
    return _search(training, low, high, how, delayed, where, predict, keep, on_trial, on_prediction)


def _search(
    training: Training,
    low: float,
    high: float,
    how: Settings,
    delayed: bool,
    where: Where,
    predict: bool,
    keep: bool,
    on_trial: Callable[[Progress], None] | None,
    on_prediction: Callable[[dict[str, Any]], None] | None,
) -> ToleranceResult:
    settings = {"low": float(low), "high": float(high), "seed": how.seed}
    first, second = ToleranceSearch(low, high, **vars(how)), None
    penalty = training.settings["penalty"]
    if predict and penalty not in PENALTIES:
        raise InputError(f"the penalty is {penalty}; a level is predicted for {' and '.join(PENALTIES)} only")
    with session(training, settings, where) as runner:
        journal = runner.journal
        said = journal.predicted if keep else None

        def level(name: str, search: ToleranceSearch, beside: Beside | None = None) -> None:
            def heard(trial: Trial | None, lost: str | None) -> None:
                if on_trial is not None:
                    on_trial(Progress.of(name, search, journal.trials.get(name, []), trial, lost))

            runner.level(name, search, heard, beside)

        def predicted(found: dict[str, Any]) -> None:
            nonlocal said
            said = found
            if not found["lost"]:
                journal.predict(found)
            if (known := prior(found)) is not None:
                first.expect(known)
            if on_prediction is not None and not found["lost"]:
                on_prediction(found)

        if said is not None and (known := prior(said)) is not None:
            first.expect(known)
        if predict and said is None and not journal.trials:
            probes = Predicting(training.what, runner.executor, penalty, how.seed, runner.folder)
            try:
                level("tolerance", first, (probes.over, predicted))
            finally:
                probes.give_up()
        else:
            level("tolerance", first)
        if delayed:
            begin = _start_of_delayed(first, low, high)
            second = ToleranceSearch(begin, high, schedule="delayed:auto", **vars(how))
            level("delayed", second)
    return ToleranceResult(
        penalty, first.estimate(), second.estimate() if second else None,
        tuple(journal.trials.get("tolerance", ())), tuple(journal.trials.get("delayed", ())), runner.folder,
        early_errors([*first.told, *(second.told if second else ())]),
        sum(len(numbers) for numbers in journal.lost.values()), first.posterior, second.posterior if second else None,
        said,
    )  # fmt: skip


def _start_of_delayed(first: ToleranceSearch, low: float, high: float) -> float:
    """Choose where the range of the delayed level begins: a delay moves the level up, if anywhere.

    That is the lower end of the first level; where there is none, the strongest penalty that was borne.

    Returns:
        The weakest strength.
    """
    borne = first.estimate().low or max((t.strength for t in first.told if t.failed < 0.5), default=low)
    return max(low, min(borne, high / 2))
