"""The front door: `record` wires regularizers, recorder, store and diagnosis to one training loop."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradscope import checks, child
from gradscope.child import Stopped
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.series import RunInfo
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.recorder import provenance
from gradscope.recorder.activations import Hook
from gradscope.recorder.baseline import AssumedBaseline
from gradscope.recorder.recorder import PRESETS, Recorder
from gradscope.recorder.rows import Block
from gradscope.regularizers.penalties import Penalty
from gradscope.store import schema
from gradscope.store.writer import Writer, claim
from gradscope.types import InputError, LearningFailure, Verdict
from gradscope.wiring import Penalties, Select, chosen_parameters

OnFailure = Literal["ignore", "warn", "raise", "stop"]


class LearningFailureWarning(UserWarning):
    """The run being recorded does not learn."""


def record(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    path: str | os.PathLike[str],
    *,
    penalty: tuple[Penalty, float] | None = None,
    every: int = 1,
    preset: str = "standard",
    select: Select | None = None,
    on_failure: str = "warn",
    steps_per_epoch: int | None = None,
    horizon: int | None = None,
    baseline_loss: float | None = None,
    mode: str = "create",
    checkpoint: Callable[[], None] | None = None,
) -> Recording:
    """Record a training run to an HDF5 file, from now until `Recording.close`.

    Args:
        model: the model, wrapped (DDP, compiled) or not; names are those of the plain model.
        optimizer: one optimizer or several. Its ``weight_decay`` is understood by itself.
        path: the file to write.
        penalty: a penalty that the loop itself adds to the loss, as ``(L1(), strength)``.
        every: record every n-th optimizer step.
        preset: ``cheap``, ``standard`` or ``full``; see the file format.
        select: a regular expression or a predicate on parameter names.
        on_failure: when the run is found not to learn: ``ignore``, ``warn``, or ``raise`` `LearningFailure`.
        steps_per_epoch: makes epochs known without `Recording.epoch`.
        horizon: the number of optimizer steps planned.
        baseline_loss: the loss of the best constant predictor (class-prior entropy). Assumed if not given.
        mode: ``create`` refuses an existing file, ``overwrite`` replaces a record.
        checkpoint: called before gradscope ends the process on a failure.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    try:
        return Recording(
            model,
            [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer),
            Path(path),
            penalty=penalty,
            every=checks.positive_int(every, "every"),
            preset=checks.one_of(preset, PRESETS, "preset"),
            select=select,
            on_failure=checks.one_of(on_failure, child.ON_FAILURE, "on_failure"),
            steps_per_epoch=None
            if steps_per_epoch is None
            else checks.positive_int(steps_per_epoch, "steps_per_epoch"),
            horizon=None if horizon is None else checks.positive_int(horizon, "horizon"),
            baseline_loss=None if baseline_loss is None else checks.finite(baseline_loss, "baseline_loss"),
            mode=mode,
            checkpoint=checkpoint,
        )
    except InputError as error:
        child.refuse(error)


_RECORDED_HERE: dict[str, int] = {}


def _destination(path: Path, asked: child.Instructions) -> Path:
    """Where to write: the environment beats the argument; a second recording writes beside the first."""
    if asked.out is None:
        return path
    number, first = _RECORDED_HERE.get(asked.out, 0) + 1, Path(asked.out)
    return first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


def _stored_names(values: Mapping[str, Any], call: str) -> dict[str, Any]:
    """The values by the names that a file can hold: "train/acc" becomes "train_acc"."""
    reserved = {*schema.BY_NAME, "step", "parameter", "module", "epochs", "events"} - {"loss"}
    named = {}
    for name, value in values.items():
        stored = name.replace("/", "_")
        if stored in reserved:
            raise InputError(f"{call}({name}=…): the record uses that name itself; choose another one")
        if not stored or stored != stored.strip() or not stored.isprintable():
            raise InputError(f"{call} got the name {name!r}; expected a word such as accuracy")
        named[stored] = value
    return named


class Recording:
    """A recording in progress; made by `record`. A context manager."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[Optimizer],
        path: Path,
        *,
        penalty: tuple[Penalty, float] | None,
        every: int,
        preset: str,
        select: Select | None,
        on_failure: str,
        steps_per_epoch: int | None,
        horizon: int | None,
        baseline_loss: float | None,
        mode: str,
        checkpoint: Callable[[], None] | None,
    ) -> None:
        asked = child.instructions()
        parameters, unseen = chosen_parameters(model, optimizers, select)
        self.path = _destination(path, asked)
        claim(self.path, mode)
        self._on_failure = asked.on_failure or on_failure
        self._on_success = asked.on_success or "ignore"
        self._checkpoint = checkpoint
        self._steps_per_epoch = steps_per_epoch
        self._told = False
        self._closed = False
        self._status = "running"
        self._process = os.getpid()
        self._blind = False
        self._baseline_given = baseline_loss is not None
        self._baseline = AssumedBaseline()
        with contextlib.ExitStack() as undo:  # nothing stays behind if a later step fails
            self._penalties = Penalties(optimizers, parameters, penalty, asked)
            undo.callback(self._penalties.detach)
            self._recorder = Recorder(
                model,
                optimizers,
                parameters,
                self._penalties.probe,
                self._on_block,
                preset=preset,
                every=every,
                before_step=self._before_step,
                group_counts=self._penalties.counts,
            )
            undo.callback(self._recorder.detach)
            undo.callback(model.register_forward_hook(Hook(self._baseline.see_output)).remove)
            self._describe(parameters, unseen, preset, every, asked)
            self._judge = self._make_judge(parameters, baseline_loss, horizon)
            self._writer = self._make_writer(baseline_loss, horizon, mode)
            self._undo = undo.pop_all()
        if asked.out is not None:
            _RECORDED_HERE[asked.out] = _RECORDED_HERE.get(asked.out, 0) + 1
        child.opened(self)
        atexit.register(self._at_exit)

    def _describe(
        self, parameters: Mapping[str, Tensor], unseen: list[str], preset: str, every: int, asked: child.Instructions
    ) -> None:
        """``config`` and ``capture`` of the record."""
        settings = {"schedule": self._penalties.schedule, "preset": preset, "every": every, "seed": asked.seed}
        self._config = provenance.configuration(parameters, self._penalties.groups, settings)
        sampled = PRESETS[preset].activations_every
        told = {} if child.inside_search() else asked.environment()
        self._capture = provenance.capture(parameters, unseen, self._penalties.sources(), sampled, told)
        if self._baseline_given:
            self._capture["baseline_loss"] = "given"

    def _make_judge(self, parameters: Mapping[str, Tensor], baseline: float | None, horizon: int | None) -> Judge:
        groups = self._penalties.groups
        return Judge(
            RunInfo(
                parameters=tuple(parameters),
                numel=self._recorder.numel,
                penalised=self._penalties.penalised(),
                group=self._penalties.group,
                penalty=self._penalties.name,
                momentum=tuple(g.get("momentum", 0.0) for g in groups),
                decoupled=tuple(g["decoupled"] for g in groups),
                adaptive=tuple(g["adaptive"] for g in groups),
                baseline_loss=math.nan if baseline is None else baseline,
                baseline_source=self._capture.get("baseline_loss", "unknown"),
                horizon=horizon,
            )
        )

    def _make_writer(self, baseline: float | None, horizon: int | None, mode: str) -> Writer:
        info = self._judge.info
        return Writer(
            self.path,
            parameters=info.parameters,
            modules=self._recorder.activations.names if self._recorder.activations else [],
            groups=len(self._penalties.groups),
            static={"numel": info.numel, "penalised": info.penalised, "group": info.group},
            attributes={
                "gradscope_version": self._config["versions"]["gradscope"],
                "penalty": info.penalty,
                "baseline_loss": math.nan if baseline is None else baseline,
                "horizon": -1 if horizon is None else horizon,
                "config": self._config,
                "capture": self._capture,
            },
            mode=mode,
        )

    # -- what a training loop calls ---------------------------------------------------------------

    def log(self, **scalars: Tensor | float) -> None:
        """Scalars of the latest backward's step, such as ``loss=loss``. Tensors do not synchronise."""
        if self._closed:
            raise InputError(f"the recording {self.path} is closed; log before close()")
        self._baseline.see_loss(scalars.get("loss"))
        self._penalties.observe(scalars)
        self._recorder.log(_stored_names(scalars, "log"))

    def epoch(self, epoch: int, **metrics: Tensor | float) -> None:
        """Epoch ``epoch`` starts here, or gets metrics such as ``accuracy=0.93`` (a second call adds)."""
        if self._closed:
            raise InputError(f"the recording {self.path} is closed; call epoch before close()")
        if not isinstance(epoch, int):
            raise InputError(f"epoch is {epoch!r}; expected a whole number, counted from 0")
        self._set_epoch(epoch)
        stored = _stored_names(metrics, "epoch")
        self._writer.epoch(epoch, {name: float(value) for name, value in stored.items()})

    @property
    def verdict(self) -> Diagnosis:
        """The diagnosis so far, from the rows that have left the device."""
        return self._judge.diagnosis(finished=self._status == "finished")

    @property
    def active_step(self) -> int | None:
        """The step at which the run was seen to learn, None before."""
        return self._judge.active_step

    def close(self) -> None:
        """Finish the file and take every hook off the model and its optimizers."""
        self._close("finished")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close("finished" if kind is None else "failed")

    # -- between two steps ------------------------------------------------------------------------

    def _before_step(self, step: int) -> None:
        """Called when a row begins, before the optimizer has done anything."""
        self._penalties.step = step
        if self._steps_per_epoch is not None:
            self._set_epoch(step // self._steps_per_epoch)
        if self._penalties.changed():
            self._recorder.drain()
            self._penalties.refresh()
            self._recorder.probe = self._penalties.probe
            self._judge.info = replace(self._judge.info, penalty=self._penalties.name)
            self._writer.set_attribute("penalty", self._penalties.name)
        if self._penalties.grown() and "added_later" not in self._capture:
            self._capture["added_later"] = f"parameter groups added after the start (by step {step}) are not recorded"
            warnings.warn(f"{self.path}: {self._capture['added_later']}", stacklevel=2)
        if step == 0:
            try:
                self._penalties.check()
            except InputError as error:
                child.refuse(error)
        judge = self._judge
        if judge.established_step is not None:
            self._penalties.active_phase(step)
        if judge.failure is not None and not self._told:
            self._told = True
            self._failed(step)
        if self._on_success == "stop" and judge.settled_step is not None and judge.failure is None:
            self._writer.event(step, "stopped", "the run learns and holds under its penalty")
            self._end("finished", "the run learns")

    def _failed(self, step: int) -> None:
        diagnosis = self._judge.diagnosis()
        self._writer.event(step, "verdict", diagnosis.sentence)
        text = f"{diagnosis.sentence}. {'; '.join(diagnosis.evidence)}. Remedy: {diagnosis.remedy}"
        if self._on_failure == "warn":
            warnings.warn(LearningFailureWarning(text), stacklevel=2)
        elif self._on_failure == "raise":
            self._close("failed")
            raise LearningFailure(text, diagnosis)
        elif self._on_failure == "stop":
            self._writer.event(step, "stopped", f"stopped by gradscope: {diagnosis.sentence}")
            if self._checkpoint is not None:
                self._checkpoint()
            self._end("failed", diagnosis.sentence)

    def _end(self, status: str, reason: str) -> None:
        """Finish the file and end the training: the process, or the function that a search has called."""
        self._close(status)
        if not child.inside_search():
            if threading.current_thread() is not threading.main_thread():
                _exit_now()  # SystemExit would end this thread alone
            # A loop that swallows SystemExit must not train on: its next step ends the process.
            register_optimizer_step_pre_hook(lambda *_: _exit_now())
        raise Stopped(reason)

    def _set_epoch(self, epoch: int) -> None:
        self._recorder.epoch = epoch
        self._penalties.set_epoch(epoch)

    def _on_block(self, block: Block) -> None:
        """Finished rows, on the host: to the judge and to the file."""
        self._settle_baseline(block)
        self._warn_of_a_blind_delay(block)
        if self._penalties.newly_acting():
            penalised = self._penalties.penalised()
            self._judge.info = replace(self._judge.info, penalised=penalised)
            self._writer.set_static("penalised", penalised)
        if (noticed := self._penalties.scale_invariance.see(block)) is not None:
            self._capture["scale_invariant"] = noticed
            self._writer.set_attribute("capture", self._capture)
        for step, text in self._penalties.changes.take():
            self._writer.event(step, "strength", text)
        self._judge.update(block)
        self._writer.append(block)

    def _settle_baseline(self, block: Block) -> None:
        if self._baseline_given or "baseline_loss" in self._capture or "loss" not in block:
            return
        baseline, source = self._baseline.settle(block["step"], block["loss"])
        self._capture |= {"baseline_loss": source, "loss_function": self._baseline.loss_function}
        self._judge.baseline, self._judge.baseline_source = baseline, source
        self._writer.set_attribute("baseline_loss", baseline)
        self._writer.set_attribute("capture", self._capture)

    def _warn_of_a_blind_delay(self, block: Block) -> None:
        """A delay that waits for the record to show learning waits for ever if no loss is logged."""
        if self._penalties.waiting() and "loss" not in block and not self._blind and block["step"][-1] >= 64:
            self._blind = True
            text = "delayed:auto waits for the loss to fall, and no loss is logged: call Recording.log(loss=…)"
            self._writer.event(int(block["step"][-1]), "warning", text)
            warnings.warn(text, stacklevel=2)

    # -- the end ----------------------------------------------------------------------------------

    def _close(self, status: str) -> None:
        if self._closed:
            return
        self._closed, self._status = True, status
        atexit.unregister(self._at_exit)
        self._undo.close()
        try:
            self._recorder.drain()
            self._writer.set_attribute("capture", self._capture)
            if not self._told:
                diagnosis = self._judge.diagnosis(finished=status == "finished")
                if diagnosis.verdict is not Verdict.UNDECIDED and self._judge.series.step.size:
                    self._writer.event(int(self._judge.series.step[-1]), "verdict", diagnosis.sentence)
        finally:
            self._writer.close(status)

    def _at_exit(self) -> None:
        """A script that never called close: finish the file all the same, unless this is a fork of it."""
        if os.getpid() != self._process:
            return
        self._close("failed" if getattr(sys, "last_value", None) is not None else "finished")


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(child.EXIT_STOPPED)
