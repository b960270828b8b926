"""Predict the level from probes before the first trials: the prior of a search."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradscope.prediction.ask_tell import Plan, Prediction, Prober
from gradscope.prediction.level_reader import shipped
from gradscope.prediction.probing import ProbeResult, Run, of_command, of_function, probed
from gradscope.prediction.suggest import PENALTIES
from gradscope.processes.command import Command
from gradscope.tolerance.posterior import Predicted
from gradscope.trials.executors import InProcessExecutor
from gradscope.trials.run_trial import MissingRecordError
from gradscope.trials.trial import Train
from gradscope.types import InputError

#: A range that is no wider than this, as a factor, is halved as fast as probes would narrow it.
WIDE = 10.0


def worth_predicting(penalty: str, low: float, high: float, scripts: bool) -> bool:
    """Return whether a search predicts the level unless it is told otherwise.

    That is where readers know the penalty, the range is wider than a decade, and a probe costs no start.

    Args:
        penalty: its word.
        low: the weakest strength.
        high: the strongest strength.
        scripts: trials are forked, so that a probe costs its steps alone.

    Returns:
        Whether it does.
    """
    return scripts and penalty in PENALTIES and high > WIDE * low


def on_executor(train: Train | Command, where: Executor) -> Run:
    """Make probes of what a search trains run on its executor."""
    if isinstance(train, Command):
        return of_command(train, where)

    def run(plan: Plan, path: Path) -> str:
        return str(where.submit(_run_function, train, plan, path).result())

    return run


def _run_function(train: Train, plan: Plan, path: Path) -> str:
    return of_function(train)(plan, path)


class _Gate(Executor):
    """Executor that takes no more calls once it is closed."""

    def __init__(self, where: Executor) -> None:
        self._where, self._lock, self._closed = where, threading.Lock(), False
        self._latest: Future[Any] | None = None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise InputError("the search is over")
            self._latest = self._where.submit(function, *args, **kwargs)
            return self._latest

    def close(self) -> None:
        """Take no more calls; the latest is not waited for, and ends where its executor can end it."""
        with self._lock:
            self._closed = True
            if self._latest is not None:
                self._latest.cancel()


class Predicting:
    """Probes under way beside a search's first trials.

    In a thread of its own, but for an executor that runs everything in this process.

    Args:
        train: what the search trains.
        where: its executor.
        penalty: the word of its penalty.
        seed: of the probes.
        folder: for their records.

    Attributes:
        over: a `Prediction` as plain values, the ``steps`` it took and whether a probe was ``lost``, once it is made or
            cannot be; it raises where the training leaves no record, as its trials would not, either.
    """

    def __init__(self, train: Train | Command, where: Executor, penalty: str, seed: int, folder: Path) -> None:
        self.over: Future[dict[str, Any]] = Future()
        self._prober = Prober(shipped(), penalty, seed=seed, quick=True)
        self._gate = _Gate(where)
        self._run, self._folder = on_executor(train, self._gate), folder
        if isinstance(where, InProcessExecutor):
            self._work()
        else:
            threading.Thread(target=self._work, name="gradscope-probes", daemon=True).start()

    def give_up(self) -> None:
        """Begin no further probe: nobody waits for the prediction any more."""
        self._gate.close()

    def _work(self) -> None:
        steps, lost = 0, False

        def told(probe: ProbeResult) -> None:
            nonlocal steps
            steps += probe.steps

        try:
            probed(self._prober, self._run, self._folder, told)
            found = self._prober.prediction()
        except MissingRecordError as error:  # nor would a trial leave one
            self.over.set_exception(error)
            return
        except (Exception, SystemExit) as error:  # of the script, of its process: the trials will tell if it matters
            reason = " ".join((str(error) or type(error).__name__).split())
            found, lost = Prediction(False, reason), True
        self.over.set_result({**asdict(found), "steps": steps, "lost": lost})


def prior(found: dict[str, Any]) -> Predicted | None:
    """Make the prior of a search from a prediction, as its journal holds it; None where there is none."""
    if found["tolerance"] is None:
        return None
    return Predicted.from_interval(found["tolerance"], found["high"])
