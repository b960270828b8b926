"""Base of the frameworks' callbacks: a recording that follows a loop which is not the user's."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import gradscope
from gradscope import checks
from gradscope.recording import LearningFailureWarning, Recording
from gradscope.recording.record_options import OnFailure, check_on_failure
from gradscope.store import schema

#: What the callbacks log themselves; it is none of the metrics of an epoch.
PREFIX = "gradscope/"


class Relay(gradscope.Sink):
    """Sink that keeps values and texts until the training thread logs them by the trainer's own means."""

    def __init__(self, *, every: int) -> None:
        super().__init__(every=every)
        self._kept: deque[tuple[int, dict[str, float]]] = deque()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the numbers of a step."""
        self._kept.append((step, dict(values)))

    def text(self, step: int, name: str, text: str) -> None:
        """Keep the verdict as a number: whether the run fails."""
        if name == f"{PREFIX}verdict":
            failed = not text.startswith(("healthy", "undecided"))
            self._kept.append((step, {f"{PREFIX}failed": float(failed)}))

    def taken(self) -> list[tuple[int, dict[str, float]]]:
        """Return what was kept, and forget it."""
        return [self._kept.popleft() for _ in range(len(self._kept))]


class Session:
    """One record, opened when a trainer begins to train, and continued when the trainer continues.

    Attributes:
        path: the record that is written.
        options: what `gradscope.record` is given.
        on_failure: what a failure leads to.
        recording: the recording while the training goes on.
        stop: the run was found not to learn, and the trainer has to be told.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        on_failure: OnFailure,
        options: Mapping[str, Any],
        log_every: int | None = None,
    ) -> None:
        self._relay = None if log_every is None else Relay(every=log_every)
        self.path, self.options = checks.absolute_path(path, "path"), dict(options)
        self.on_failure = on_failure
        check_on_failure(on_failure)
        inspect.signature(gradscope.record).bind(None, None, path, **options)  # a wrong name is told now
        self.recording: Recording | None = None
        self._first, self._trainings = self.path, 0
        self.stop = False
        self._losses: list[Tensor] = []
        self._steps_seen = 0

    def open(
        self, model: torch.nn.Module, optimizers: list[Any], *, resume_step: int, horizon: float, exists: bool
    ) -> Recording:
        """Begin a record, or continue at ``resume_step`` the one that ``exists``."""
        self.close(failed=True)  # left open by a training that ended in an error
        self.stop, self._losses = False, []
        given: dict[str, Any] = {"on_failure": self._failed if self.on_failure == "stop" else self.on_failure}
        if math.isfinite(horizon) and horizon > 0:
            given["horizon"] = int(horizon)
        if resume_step and exists:
            given |= {"mode": "append", "resume_step": resume_step}
        elif resume_step:
            text = f"{self.path} is not there: it begins at the checkpoint, and counts its step {resume_step} as 0"
            warnings.warn(text, stacklevel=checks.users_line())
        elif self._trainings and self.options.get("mode") != "overwrite":
            self._move_on()
        self._trainings += 1
        # What the user has said stands, but not against going on after a checkpoint.
        mode = {n: v for n, v in given.items() if n in ("mode", "resume_step")}
        if self._relay is not None:
            given["sinks"] = [*self.options.get("sinks", ()), self._relay]
            mode["sinks"] = given["sinks"]
        self.recording = gradscope.record(model, optimizers, self.path, **{**given, **self.options, **mode})
        self._steps_seen = self.recording.next_step
        return self.recording

    def _move_on(self) -> None:
        """Take another path where the trainer begins again (a smaller batch, the next trial of a search)."""
        while True:
            path = self._first.with_stem(f"{self._first.stem}-{self._trainings + 1}")
            if not path.exists():
                break
            self._trainings += 1
        warnings.warn(f"the trainer begins again: {self.path} stays, {path} is written", stacklevel=checks.users_line())
        self.path = path

    def _failed(self, diagnosis: gradscope.Diagnosis) -> None:
        self.stop = True
        warnings.warn(
            LearningFailureWarning(f"{diagnosis.explanation}. The trainer is told to stop"),
            stacklevel=checks.users_line(),
        )

    def add_loss(self, loss: Tensor) -> None:
        """Add the loss of one micro-batch."""
        self._losses.append(loss.detach())

    def step_is_over(self) -> bool:
        """Return whether the optimizer has stepped since the last time this was so."""
        now = self._steps_seen if self.recording is None else self.recording.next_step
        before, self._steps_seen = self._steps_seen, now
        return now > before

    def log_loss(self, times: float | None = None) -> Tensor | None:
        """Log the step's loss from those of its micro-batches: their sum ``times`` a factor, without one their mean."""
        losses, self._losses = self._losses, []
        if not losses or self.recording is None:
            return None
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        loss = total / len(losses) if times is None else total * times
        self.recording.log(loss=loss)
        return loss

    def news(self) -> list[tuple[int, dict[str, float]]]:
        """Return what there is to log since the last time: steps, and numbers by name."""
        return [] if self._relay is None else self._relay.taken()

    def epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Note that an epoch begins, or has metrics."""
        if self.recording is not None:
            self.recording.epoch(epoch, **free_names(metrics or {}))

    def close(self, failed: bool = False) -> None:
        """Close the record at the end of the training."""
        if self.recording is not None:
            self.recording.close(failed=failed or self.stop)
        self.recording = None


def free_names(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Select the metrics that are numbers; a name that the record uses itself gets ``metric_`` before it."""
    taken = {*schema.BY_NAME, *schema.COORDINATES, "epochs", "events"}
    numbers = {name: value for name, value in metrics.items() if _is_number(value) and not name.startswith(PREFIX)}
    return {f"metric_{n}" if n.replace("/", "_") in taken else n: float(v) for n, v in numbers.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
