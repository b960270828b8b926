"""Run the trials that an ask/tell object plans, on an executor, and enter their outcomes into the journal."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gradscope.diagnosis.siblings import nearest
from gradscope.processes.worker import WorkerLostError
from gradscope.run_info import Sibling
from gradscope.trials.journal import Journal
from gradscope.trials.run_trial import TrialCrashedError
from gradscope.trials.trial import Trial, check_seeds
from gradscope.types import InputError, Verdict

#: Submits a trial, which records to the path: ``start(executor, plan, path)``.
Start = Callable[[Executor, Trial, Path], "Future[Trial]"]

#: Trials lost in a row after which the command is taken to be at fault.
LOST_IN_A_ROW = 3

#: Work that is under way, and what to do with its result.
Beside = tuple["Future[Any]", Callable[[Any], None]]

#: Called after each trial, with the trial, or with why it was lost.
Heard = Callable[[Trial | None, str | None], None]


class AskTell(Protocol):
    """Planner of trials: asked for one at a time, and told what came of each."""

    @property
    def done(self) -> bool:
        """Whether no further trial is needed."""
        ...

    def ask(self) -> Trial:
        """Return the next trial."""
        ...

    def tell(self, trial: Trial) -> None:
        """Take a trial that is over."""
        ...

    def lose(self, number: int) -> None:
        """Take the number of a trial that came to no outcome."""
        ...

    def skip(self, number: int) -> None:
        """Take the number of a trial that was under way when an earlier search ended."""
        ...


@dataclass
class Runner:
    """Runner of the trials of all levels of a search.

    Attributes:
        start: submits a trial to the executor.
        executor: runs the trials.
        workers: trials at a time.
        journal: of the folder.
        folder: for the records.
    """

    start: Start
    executor: Executor
    workers: int
    journal: Journal
    folder: Path
    _running: dict[Future[Trial], Trial] = field(default_factory=dict)
    _lost_in_a_row: int = 0
    _heard: Heard | None = None

    def level(self, name: str, search: AskTell, heard: Heard | None = None, beside: Beside | None = None) -> None:
        """Search one level to its end, going on with what the journal holds.

        Args:
            name: of the level.
            search: plans the trials.
            heard: called after each trial.
            beside: other work on the executor, which takes the place of one trial until it is over, and what is done
                with its result then.

        Raises:
            InputError: the first mistake that came up, once all that is over has been kept.
        """  # noqa: DOC502 - the first of a list
        self._replay(name, search)
        self._heard = heard
        try:
            while self._running or not search.done:
                while len(self._running) < self.workers - (beside is not None) and not search.done:
                    self._begin(name, search.ask())
                others = () if beside is None else (beside[0],)
                finished, _ = wait((*self._running, *others), return_when=FIRST_COMPLETED)
                mistakes: list[InputError] = []
                if beside is not None and beside[0].done():
                    finished -= {beside[0]}
                    try:
                        beside[1](beside[0].result())
                    except InputError as mistake:
                        mistakes.append(mistake)
                    beside = None
                for future in finished:  # all of them, whatever one says: what is over is kept
                    try:
                        self._end(name, search, future, self._running.pop(future))
                    except InputError as mistake:
                        mistakes.append(mistake)
                if mistakes:
                    raise mistakes[0]
        finally:  # an interrupt or a mistake: nothing waits for what is still training
            for future in self._running:
                future.cancel()
            self._running.clear()

    def _replay(self, name: str, search: AskTell) -> None:
        for number in self.journal.unfinished(name):
            search.skip(number)
            self._path(name, number).unlink(missing_ok=True)
        for number in self.journal.lost.get(name, ()):
            search.lose(number)
        for trial in self.journal.trials.get(name, ()):
            search.tell(trial)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:03d}.h5"

    def _begin(self, name: str, plan: Trial) -> None:
        self.journal.ask(name, plan)
        plan = replace(plan, siblings=self._siblings(name, plan))
        try:
            future = self.start(self.executor, plan, self._path(name, plan.number))
        except InputError:
            raise
        except Exception as error:  # a broken pool, a scheduler that has gone
            raise InputError(
                f"the executor takes no more trials ({type(error).__name__}: {error}); the same command goes on "
                f"where this one stopped"
            ) from error
        self._running[future] = plan

    def _end(self, name: str, search: AskTell, future: Future[Trial], plan: Trial) -> None:
        try:
            trial = future.result()
        except InputError:
            raise
        except Exception as error:  # the trial's, or the executor's way of saying that a worker died
            self._lose(name, search, plan, error)
            return
        if trial.verdict == Verdict.UNDECIDED and trial.value is None and all(t.silent for t in self._finished(name)):
            raise InputError(f"{Path(trial.path).name} shows no outcome: {trial.note}")
        self._lost_in_a_row = 0
        # before it is kept: the same command says so again
        check_seeds((t.seed, t.fingerprint) for t in (*self._finished(name), trial))
        self.journal.add(name, trial)
        search.tell(trial)
        if self._heard is not None:
            self._heard(trial, None)

    def _siblings(self, name: str, plan: Trial) -> tuple[Sibling, ...]:
        """Choose the finished trials that a trial is judged beside: those near it, of the same schedule."""
        known = [t.sibling for t in self._finished(name) if t.schedule == plan.schedule]
        return nearest(plan.strength, [s for s in known if s is not None]) if plan.strength > 0 else ()

    def _finished(self, name: str) -> list[Trial]:
        return self.journal.trials.get(name, [])

    def _lose(self, name: str, search: AskTell, plan: Trial, error: Exception) -> None:
        """Note a dead, hung or crashed trial; raise where nothing else ever comes of the command.

        Raises:
            InputError: as many trials were lost in a row as `LOST_IN_A_ROW`, or the first one exited with an error.
        """
        text = str(error) if isinstance(error, WorkerLostError) else f"{type(error).__name__}: {error}"
        reason = " ".join(text.split())
        self._lost_in_a_row += 1
        exits = isinstance(error, TrialCrashedError) and error.exits
        if self._lost_in_a_row >= LOST_IN_A_ROW or (exits and not self._finished(name)):
            again = f", {self._lost_in_a_row} times in a row" if self._lost_in_a_row > 1 else ""
            raise InputError(f"a trial could not be run{again}: {reason}")
        self.journal.lose(name, plan.lost(reason))
        search.lose(plan.number)
        if self._heard is not None:
            self._heard(None, f"trial {plan.number} ({plan.strength:g}, seed {plan.seed}) is lost: {reason}")
