"""The search for the tolerance level: asks where to try, runs trials, remembers, and says what follows."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from gradscope import checks
from gradscope.card import card
from gradscope.child import Command
from gradscope.diagnosis.tolerance import ToleranceEstimate
from gradscope.search.asker import Plan, ToleranceSearch
from gradscope.search.ledger import Ledger
from gradscope.search.trials import (
    Train,
    TrialResult,
    check_seeds,
    run_command_trial,
    run_function_trial,
)
from gradscope.types import InputError

Progress = Callable[[str, TrialResult, ToleranceEstimate], None]
Run = Callable[[Executor, Plan, Path, str | None], "Future[TrialResult]"]


@dataclass(frozen=True)
class ToleranceResult:
    """What a search found. ``delayed`` is None where the delayed tolerance was not asked for."""

    penalty: str
    estimate: ToleranceEstimate
    delayed: ToleranceEstimate | None
    trials: tuple[TrialResult, ...]
    delayed_trials: tuple[TrialResult, ...] = ()
    out: Path | None = None

    @property
    def determined(self) -> bool:
        return self.estimate.determined

    @property
    def tolerance(self) -> float | None:
        return self.estimate.tolerance

    @property
    def low(self) -> float | None:
        return self.estimate.low

    @property
    def high(self) -> float | None:
        return self.estimate.high

    @property
    def steps_run(self) -> int:
        return sum(t.steps for t in (*self.trials, *self.delayed_trials))

    @property
    def epochs_run(self) -> int | None:
        counts = [t.epochs for t in (*self.trials, *self.delayed_trials)]
        return None if None in counts or not counts else sum(c for c in counts if c is not None)

    @property
    def advice(self) -> str:
        """The sentence a user came for."""
        if not self.estimate.determined or self.estimate.low is None:
            return f"not determined: {self.estimate.reason}"
        text = f"use at most {self.estimate.low:.3g}{_as_decay(self.penalty, self.estimate.low)} from the start"
        if self.delayed is not None and self.delayed.determined and self.delayed.low is not None:
            text += f", up to {self.delayed.low:.3g}{_as_decay(self.penalty, self.delayed.low)} with a delay"
        return text

    def as_dict(self) -> dict[str, Any]:
        """As ``gradscope search --json`` prints it."""
        e = self.estimate
        shown: dict[str, Any] = {
            "determined": e.determined,
            "reason": e.reason,
            "penalty": self.penalty,
            "tolerance": e.tolerance,
            "low": e.low,
            "high": e.high,
            "confidence": e.confidence,
            "weight_decay": 2 * e.tolerance if self.penalty == "l2" and e.tolerance is not None else None,
            "slope": e.slope,
            "trials": len(self.trials) + len(self.delayed_trials),
            "steps_run": self.steps_run,
            "epochs_run": self.epochs_run,
            "advice": self.advice,
            "runs": [_shown(t) for t in (*self.trials, *self.delayed_trials)],
        }
        if self.delayed is not None:
            d = self.delayed
            shown |= {"delayed_tolerance": d.tolerance, "delayed_low": d.low, "delayed_high": d.high}
            shown |= {"delayed_slope": d.slope, "delayed_reason": d.reason}
        return shown

    def _repr_html_(self) -> str:
        """For notebooks."""
        e = self.estimate
        facts: dict[str, object] = {"penalty": self.penalty, "trials": len(self.trials) + len(self.delayed_trials)}
        if e.determined and e.tolerance is not None and e.low is not None and e.high is not None:
            facts["tolerance level"] = f"{e.tolerance:.3g}{_as_decay(self.penalty, e.tolerance)}"
            facts[f"{e.confidence:.0%} interval"] = f"{e.low:.3g} to {e.high:.3g}"
        if self.delayed is not None and self.delayed.tolerance is not None:
            facts["with a delay"] = f"{self.delayed.tolerance:.3g}{_as_decay(self.penalty, self.delayed.tolerance)}"
        return card(self.advice, "healthy" if e.determined else "undecided", facts=facts)


def _as_decay(penalty: str, strength: float) -> str:
    return f" (weight_decay {2 * strength:.3g})" if penalty == "l2" else ""


def _shown(trial: TrialResult) -> dict[str, Any]:
    return {name: value for name, value in trial.as_dict().items() if name != "fingerprint"}


def search_tolerance(
    train: Train,
    low: float,
    high: float,
    *,
    penalty: str = "l2",
    delayed: bool = False,
    workers: int = 1,
    out: str | Path | None = None,
    precision: float = 0.1,
    max_trials: int = 40,
    seed: int = 0,
    on_trial: Progress | None = None,
) -> ToleranceResult:
    """Find the strength at which half of the runs fail to learn, with a 95 % interval.

    Args:
        train: ``train(strength, seed, path)`` trains once and records to ``path`` with `gradscope.record`.
            Trials are ended early, on either outcome, by the recording. With several workers it has to
            be importable by name (a function of a module), because it runs in processes of its own.
        low, high: the strengths between which to look.
        penalty: the penalty that ``train`` uses, checked against the record.
        delayed: find the delayed tolerance too, with the penalty off until the active phase.
        workers: trials at a time.
        out: the search folder; a search that was interrupted carries on there. Default: a new one.
        precision: width of the interval to reach, in decades.
        max_trials: trials at most, a level.
        seed: of the placement of trials.
        on_trial: called after each trial with its level, its result and the estimate so far.

    Raises:
        InputError: the range, the folder or the training function cannot be used.
    """
    checks.positive_int(workers, "workers")

    def run(executor: Executor, plan: Plan, path: Path, schedule: str | None) -> Future[TrialResult]:
        if workers == 1:
            done: Future[TrialResult] = Future()
            done.set_result(run_function_trial(train, plan, path, penalty, schedule))
            return done
        return executor.submit(run_function_trial, train, plan, path, penalty, schedule)

    def pool() -> Executor:
        if workers == 1:
            return ThreadPoolExecutor(1)
        # spawn: a forked copy of a process that has used OpenMP or CUDA can hang.
        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    name = getattr(train, "__qualname__", repr(train))
    settings = {"command": name, "penalty": penalty, "low": float(low), "high": float(high), "seed": seed}
    nothing = lambda: None  # noqa: E731 - the pool's own processes end with it
    return _search(run, pool, nothing, settings, workers, delayed, out, precision, max_trials, on_trial)


def search_command(
    command: Command,
    low: float,
    high: float,
    *,
    delayed: bool = False,
    workers: int = 1,
    out: str | Path | None = None,
    precision: float = 0.1,
    max_trials: int = 40,
    seed: int = 0,
    timeout: float | None = None,
    on_trial: Progress | None = None,
) -> ToleranceResult:
    """`search_tolerance` for a training command; each trial is a process of its own."""
    checks.positive_int(workers, "workers")

    children: list[Popen[bytes]] = []

    def run(executor: Executor, plan: Plan, path: Path, schedule: str | None) -> Future[TrialResult]:
        return executor.submit(run_command_trial, command, plan, path, schedule, timeout, children.append)

    def stop() -> None:
        for process in children:
            if process.poll() is None:
                process.terminate()

    settings = {
        "command": list(command.words), "penalty": command.penalty,
        "low": float(low), "high": float(high), "seed": seed,
    }  # fmt: skip
    pool = lambda: ThreadPoolExecutor(workers)  # noqa: E731 - a thread waits for each process
    return _search(run, pool, stop, settings, workers, delayed, out, precision, max_trials, on_trial)


def _search(
    run: Run,
    pool: Callable[[], Executor],
    stop: Callable[[], None],
    settings: dict[str, Any],
    workers: int,
    delayed: bool,
    out: str | Path | None,
    precision: float,
    max_trials: int,
    on_trial: Progress | None,
) -> ToleranceResult:
    low, high = checks.strength_range(settings["low"], settings["high"])
    levels: list[tuple[str, str | None]] = [("tolerance", None)]
    if delayed:
        levels.append(("delayed", "delayed:auto"))
    searches = {
        level: ToleranceSearch(low, high, precision=precision, max_trials=max_trials, seed=settings["seed"])
        for level, _ in levels
    }
    folder = checks.writable_folder(Path(tempfile.mkdtemp(prefix="gradscope-search-") if out is None else out))
    ledger = Ledger(folder, settings)
    for level, schedule in levels:
        _search_level(run, pool, stop, ledger, folder, level, schedule, searches[level], workers, on_trial)
    first = searches["tolerance"].estimate()
    second = searches["delayed"].estimate() if delayed else None
    return ToleranceResult(
        settings["penalty"], first, second,
        tuple(ledger.trials.get("tolerance", ())), tuple(ledger.trials.get("delayed", ())), folder,
    )  # fmt: skip


def _search_level(
    run: Run,
    pool: Callable[[], Executor],
    stop: Callable[[], None],
    ledger: Ledger,
    folder: Path,
    level: str,
    schedule: str | None,
    search: ToleranceSearch,
    workers: int,
    on_trial: Progress | None,
) -> None:
    for trial in ledger.trials.get(level, ()):
        search.replay(trial.number, trial.strength, trial.failed, trial.steps)
    running: set[Future[TrialResult]] = set()
    executor = pool()
    try:
        while running or not search.done:
            while len(running) < workers and not search.done:
                plan = search.ask(len(running))
                path = folder / f"{level}-{plan.number:03d}.h5"
                path.unlink(missing_ok=True)  # of a trial that was killed before it was entered
                running.add(run(executor, plan, path, schedule))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                trial = _result(future)
                ledger.add(level, trial)
                check_seeds(ledger.trials[level])
                search.tell(trial.strength, trial.failed, trial.steps)
                if on_trial is not None:
                    on_trial(level, trial, search.estimate())
    except BaseException:
        stop()  # an interrupt or a mistake: what is still training has nobody left to tell
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[TrialResult]) -> TrialResult:
    try:
        return future.result()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"a trial could not be run: {type(error).__name__}: {error}") from error
