"""The search for the tolerance level: from a training and a range to the level and what follows from it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.child import Command
from gradscope.search.asker import Plan, ToleranceSearch, early_errors
from gradscope.search.campaign import Campaign, Start
from gradscope.search.executors import HereExecutor, open_executor
from gradscope.search.ledger import Ledger
from gradscope.search.result import Progress, ToleranceResult
from gradscope.search.trials import Train, TrialResult, run_command_trial, run_function_trial

__all__ = ["Progress", "ToleranceResult", "search_command", "search_tolerance"]


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
    on_trial: Callable[[Progress], None] | None = None,
) -> ToleranceResult:
    """Find the strength at which half of the runs fail to learn, with a 95 % interval.

    Args:
        train: ``train(strength, seed, path)`` trains once and records to ``path`` with `gradscope.record`.
            Trials are ended early, on either outcome, by the recording. Where trials run in processes of their own
            it has to be importable by name (a function of a module).
        low, high: the strengths between which to look.
        penalty: the penalty that ``train`` uses, checked against the record.
        delayed: find the delayed tolerance too, with the penalty off until the active phase.
        workers: trials at a time.
        executor: ``"local"``: a process a trial on this machine; ``"dask://HOST:PORT"``; or any
            `concurrent.futures.Executor`. Default: in this very process for one worker, else ``"local"``.
        out: the search folder; a search that was interrupted carries on there. Default: a new one.
        precision: width of the interval to reach, in decades.
        max_trials: trials at most, a level.
        seed: of the placement of trials and of the trials themselves.
        timeout: seconds after which a trial counts as lost (with ``"local"`` and ``"dask://…"``).
        on_trial: called after each trial.

    Raises:
        InputError: the range, the folder, the executor or the training function cannot be used.
    """

    def start(where: Executor, plan: Plan, path: Path, schedule: str | None) -> Future[TrialResult]:
        return where.submit(run_function_trial, train, plan, path, penalty, schedule)

    settings: dict[str, Any] = {"command": _name(train), "penalty": penalty}
    settings |= {"low": float(low), "high": float(high), "seed": seed}
    if executor is None:
        executor = HereExecutor() if (workers or 1) == 1 and timeout is None else "local"
    preload = [getattr(train, "__module__", "__main__")]
    return _search(start, settings, delayed, workers, executor, out, precision, max_trials, timeout, on_trial, preload)


def _name(train: Train) -> str:
    """What a ledger knows a function by: no address in memory, which is another one in the next process."""
    if isinstance(train, functools.partial):
        given = [repr(a) for a in train.args] + [f"{k}={v!r}" for k, v in train.keywords.items()]
        return f"{_name(train.func)}({', '.join(given)})"
    return str(getattr(train, "__qualname__", type(train).__qualname__))


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
    on_trial: Callable[[Progress], None] | None = None,
) -> ToleranceResult:
    """`search_tolerance` for a training command; each trial is a process of its own."""

    def start(where: Executor, plan: Plan, path: Path, schedule: str | None) -> Future[TrialResult]:
        return where.submit(run_command_trial, command, plan, path, schedule)

    settings: dict[str, Any] = {"command": list(command.words), "penalty": command.penalty}
    settings |= {"low": float(low), "high": float(high), "seed": seed}
    return _search(start, settings, delayed, workers, executor, out, precision, max_trials, timeout, on_trial)


def _search(
    start: Start,
    settings: dict[str, Any],
    delayed: bool,
    workers: int | None,
    executor: str | Executor,
    out: str | Path | None,
    precision: float,
    max_trials: int,
    timeout: float | None,
    on_trial: Callable[[Progress], None] | None,
    preload: Sequence[str] = (),
) -> ToleranceResult:
    low, high = settings["low"], settings["high"]
    how: dict[str, Any] = {"precision": precision, "max_trials": max_trials, "seed": settings["seed"]}
    first, second = ToleranceSearch(low, high, **how), None
    where, count = open_executor(executor, workers, timeout, preload)
    try:
        given = tempfile.mkdtemp(prefix="gradscope-search-") if out is None else out
        folder = checks.writable_folder(checks.absolute_path(given, "out"))
        ledger = Ledger(folder.resolve(), settings)
        try:
            campaign = Campaign(start, where, count, ledger, folder.resolve(), on_trial)
            campaign.level("tolerance", None, first)
            if delayed:
                second = ToleranceSearch(_start_of_delayed(first, low, high), high, **how)
                campaign.level("delayed", "delayed:auto", second)
        finally:
            ledger.close()
    finally:
        if not isinstance(executor, Executor):  # one that was given stays its owner's
            where.shutdown(wait=True, cancel_futures=True)
    return ToleranceResult(
        settings["penalty"], first.estimate(), second.estimate() if second else None,
        tuple(ledger.trials.get("tolerance", ())), tuple(ledger.trials.get("delayed", ())), folder,
        early_errors([*first.told, *(second.told if second else ())]),
        sum(len(numbers) for numbers in ledger.lost.values()), first.posterior, second.posterior if second else None,
    )  # fmt: skip


def _start_of_delayed(first: ToleranceSearch, low: float, high: float) -> float:
    """Where the range of the delayed level begins: a delay moves the level up, if anywhere.

    That is the lower end of the first level; where there is none, the strongest penalty that was borne.
    """
    borne = first.estimate().low or max((t.strength for t in first.told if t.failed < 0.5), default=low)
    return max(low, min(borne, high / 2))
