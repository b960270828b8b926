"""Restarts inside one process: what ``gradscope run`` does, around a training loop in Python.

    for attempt in gradscope.Restarts(model, optimizer, scheduler, path="fix"):
        with attempt as run:
            for epoch in range(50):
                ...
                run.log(loss=loss)

The body is an ordinary recorded training. Where its recording finds a learning failure, the `with` block ends there;
model, optimizer, random generators and everything else given are put back as they were before the first attempt, and
the body runs again with the same strength and its penalty delayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope import checks
from gradscope.processes.instructions import Instructions, Stopped, instructed, supervised
from gradscope.recording import LearningFailureWarning, Recording, record
from gradscope.restart.attempt import read_attempt
from gradscope.restart.checkpoint import Checkpoint
from gradscope.restart.history import History, RunResult, status_of
from gradscope.restart.policy import Decision, Policy, policy_for
from gradscope.restart.resumption import checkpoints_beside, resumption
from gradscope.types import InputError

OWN = ("on_failure", "mode", "resume_step", "later_rows", "checkpoint")


class Restarts:
    """Attempts at one training, until one learns or a restart cannot help; iterate over it.

    A failure that remains is warned about. Under ``gradscope run`` or ``search`` it makes one attempt and leaves the
    restarts to them.

    Args:
        model: as in `record`.
        optimizer: as in `record`; penalties attached to it are part of its state.
        state: whatever else a restart has to put back: schedulers, scalers, samplers' generators, counters in a dict.
        path: the folder for the records and ``run.json``; the same call goes on in it after it was killed.
        schedule: of the first attempt, such as ``delayed:5``; over the penalty that the loop itself has.
        restart: ``delayed``, ``delayed:5``, ``delayed:2000steps`` or ``none``.
        max_restarts: how often at most.
        start_from: ``start``, or ``checkpoint``: loop over ``attempt.epochs(n)`` then.
        policy: in the place of these four.
        options: further arguments of `record`, such as ``horizon``.

    Attributes:
        result: after the loop, what came of it; None before, and under ``gradscope run``.

    Raises:
        InputError: something given cannot be used, or several ranks train.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *state: Any,
        path: str | Path,
        schedule: str | None = None,
        restart: str = "delayed",
        max_restarts: int = 1,
        start_from: str = "start",
        policy: Policy | None = None,
        **options: Any,
    ) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise InputError("Restarts is for one process; with several ranks use gradscope run -- torchrun …")
        if wrong := [name for name in OWN if name in options]:
            raise InputError(f"{wrong[0]} is set by Restarts itself; leave it out")
        optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        self._what = model, optimizers, options
        self._checkpoint = Checkpoint(model, *optimizers, *state)
        self._policy = policy or policy_for(schedule, restart, max_restarts, start_from)
        self._path = checks.absolute_path(path, "path")
        self._settings = {"policy": self._policy.text}
        self.result: RunResult | None = None

    def __iter__(self) -> Iterator[RunningAttempt]:
        if supervised():
            yield RunningAttempt(self._checkpoint, Instructions(), self._what, self._path.with_suffix(".h5"))
            return
        history = History(self._path, self._settings)
        for attempt in history.attempts:
            self._policy.tell(attempt)
        start = self._checkpoint.state()
        while self.result is None and (decision := self._policy.ask()).start:
            self._checkpoint.load(start)
            running = self._next(history, decision)
            yield running
            if not running.over:
                raise InputError("the body of a loop over Restarts has to train inside: with attempt as run: …")
        if self.result is None:  # the last call was killed between the last attempt and the end
            self.result = history.close(status_of(history.attempts[-1]), decision.reason)
        if self.result.status in ("failed", "never penalised"):
            warnings.warn(LearningFailureWarning(f"{self._path}: {self.result.reason}"), stacklevel=checks.users_line())

    def _next(self, history: History, decision: Decision) -> RunningAttempt:
        path = history.free_path()
        asked = Instructions(schedule=decision.schedule, out=str(path), on_failure="stop")
        if self._policy.from_checkpoints:
            asked = replace(asked, checkpoints=str(checkpoints_beside(path)))
        if decision.without_penalty:
            asked = replace(asked, strength=0.0, penalty="l2", on_success="stop", checkpoints=None)
        if decision.from_checkpoint and (found := resumption(history.attempts[-1], path)) is not None:
            asked = replace(asked, resume_step=found.step)
            self._checkpoint.restore(found.checkpoint)

        def told(ended: str, error: BaseException | None) -> None:
            if ended in ("crashed", "interrupted"):
                history.close(ended, f"{type(error).__name__}: {error}".rstrip(": "))
                return
            attempt = read_attempt(asked, ended)
            history.end(attempt)
            self._policy.tell(attempt)
            if not (now := self._policy.ask()).start:
                self.result = history.close(status_of(attempt), now.reason)

        history.begin({"path": str(path), "schedule": decision.schedule or "constant", "ended": "running"})
        return RunningAttempt(self._checkpoint, asked, self._what, path, history.alone, told)


class RunningAttempt:
    """One attempt: a context manager around the training loop that hands out the `Recording`.

    Attributes:
        over: whether its ``with`` block has ended.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        asked: Instructions,
        what: tuple[nn.Module, list[Optimizer], dict[str, Any]],
        path: Path,
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
        told: Callable[[str, BaseException | None], None] = lambda ended, error: None,
    ) -> None:
        self._checkpoint, self._asked, self._what, self._path = checkpoint, asked, what, path
        self._alone, self._told = alone, told
        self._undo = ExitStack()
        self.over = False

    def epochs(self, count: int) -> Iterator[int]:
        """Count the epochs from where the attempt goes on: 0, or the epoch of the last healthy checkpoint.

        Args:
            count: epochs of the whole training.

        Returns:
            An iterator up to ``count - 1``.
        """
        return self._checkpoint.epochs(count)

    def __enter__(self) -> Recording:
        model, optimizers, options = self._what
        told_from_outside = supervised()
        checkpoint = self._checkpoint if told_from_outside or self._asked.checkpoints else None
        with ExitStack() as undo:
            undo.enter_context(self._alone())
            if not told_from_outside:
                undo.enter_context(instructed(self._asked))
            run = undo.enter_context(record(model, optimizers, self._path, checkpoint=checkpoint, **options))
            self._undo = undo.pop_all()
        return run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._undo.__exit__(kind, error, trace)
        stopped = isinstance(error, Stopped) and not supervised()
        broken = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "crashed"
        self.over = True
        self._told("itself" if error is None else "stopped" if stopped else broken, error)
        return stopped
