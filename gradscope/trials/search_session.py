"""Open what every search needs: the training it runs, its folder, its executor and its journal."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.processes.command import Command
from gradscope.processes.script import why_cold
from gradscope.trials.executors import InProcessExecutor, open_executor
from gradscope.trials.journal import Journal
from gradscope.trials.local import RECORDING
from gradscope.trials.run_trial import run_command_trial, run_function_trial
from gradscope.trials.runner import Runner, Start
from gradscope.trials.trial import Train, Trial


@dataclass(frozen=True)
class Training:
    """Training that a search repeats.

    Attributes:
        what: the function or command.
        start: submits a trial of it.
        settings: what a journal knows it by.
        preload: modules that its processes import once.
        scripts: each trial runs a Python script, which can be forked from a process that has its imports.
    """

    what: Train | Command
    start: Start
    settings: dict[str, Any]
    preload: Sequence[str] = ()
    scripts: bool = False

    @classmethod
    def of_function(cls, train: Train, penalty: str, metric: str | None = None) -> Training:
        """Make it of a plain function ``train(strength, seed, path)``."""

        def start(where: Executor, plan: Trial, path: Path) -> Future[Trial]:
            return where.submit(run_function_trial, train, plan, path, penalty, metric)

        settings = {"command": name_of(train), "penalty": penalty}
        warm = RECORDING if "torch" in sys.modules else ()
        return cls(train, start, settings, [getattr(train, "__module__", "__main__"), *warm])

    @classmethod
    def of_command(cls, command: Command, metric: str | None = None) -> Training:
        """Make it of a training command; each trial is a process of its own."""

        def start(where: Executor, plan: Trial, path: Path) -> Future[Trial]:
            return where.submit(run_command_trial, command, plan, path, metric)

        settings = {"command": list(command.words), "penalty": command.penalty}
        return cls(command, start, settings, scripts=why_cold(command.words) is None)


@dataclass(frozen=True)
class Where:
    """Executor and folder for the trials of a search.

    Attributes:
        executor: ``local``, ``dask://HOST:PORT``, ``submitit`` or an executor.
        workers: trials at a time.
        timeout: seconds for a trial.
        out: the folder that keeps them; None: a new one.
    """

    executor: str | Executor
    workers: int | None
    timeout: float | None
    out: str | Path | None


def name_of(train: Callable[..., object]) -> str:
    """Return what a journal knows a function by: no address in memory, which is another one in the next process."""
    if isinstance(train, functools.partial):
        given = [repr(a) for a in train.args] + [f"{k}={v!r}" for k, v in train.keywords.items()]
        return f"{name_of(train.func)}({', '.join(given)})"
    return str(getattr(train, "__qualname__", type(train).__qualname__))


def executor_here(workers: int | None, timeout: float | None, given: str | Executor | None) -> str | Executor:
    """Choose where a function trains that was not told where: in this process if one trial at a time is enough."""
    if given is not None:
        return given
    return InProcessExecutor() if (workers or 1) == 1 and timeout is None else "local"


@contextlib.contextmanager
def session(training: Training, settings: dict[str, Any], where: Where) -> Iterator[Runner]:
    """Open a runner in its folder, and end what it started afterwards.

    Args:
        training: what is trained.
        settings: what another search in the folder would differ in.
        where: the trials run.

    Yields:
        The runner.
    """
    executor, count = open_executor(where.executor, where.workers, where.timeout, training.preload, training.scripts)
    try:
        given = tempfile.mkdtemp(prefix="gradscope-search-") if where.out is None else where.out
        folder = checks.output_folder(given, "out")
        journal = Journal(folder.resolve(), training.settings | settings)
        try:
            yield Runner(training.start, executor, count, journal, folder.resolve())
        finally:
            journal.close()
    finally:
        if executor is not where.executor:  # one that was given stays its owner's
            executor.shutdown(wait=True, cancel_futures=True)
