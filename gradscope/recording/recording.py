"""The front door: `record` wires regularizers, recorder, store and diagnosis to one training loop."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradscope import checks, child
from gradscope.card import card
from gradscope.child import Stopped
from gradscope.control.checkpoint import Kept
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.rules.checker import Checker
from gradscope.diagnosis.rules.derived import VALIDATION
from gradscope.diagnosis.rules.finding import Finding
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.optimizers.wrapped import each_stepping
from gradscope.recorder.baseline.assumed import AssumedBaseline
from gradscope.recorder.baseline.targets import TargetWatch
from gradscope.recorder.cadence import Cadence, Given, cadences
from gradscope.recorder.consumer import Noting, RowConsumer
from gradscope.recorder.distributed import Ranks
from gradscope.recorder.kernels.table import without_kernels
from gradscope.recorder.listeners.activations import Activations
from gradscope.recorder.listeners.forwards import Forwards
from gradscope.recorder.ownership import apart
from gradscope.recorder.presets import PRESETS
from gradscope.recorder.recorder import Recorder
from gradscope.recorder.rows import Block
from gradscope.recorder.scalars import scalar
from gradscope.recording import provenance, resume
from gradscope.recording.live_judge import CHUNK, LiveJudge, Rows
from gradscope.recording.opening import begun, ended, make_room, new_file, run_info
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.recording.sink import MultiWriter, Sink, SinkThread, checked_sinks
from gradscope.regularizers.penalties import Penalty
from gradscope.regularizers.term import Term
from gradscope.run_info import history_of
from gradscope.store.claim import LATER_ROWS, claim, claim_name, free_name, give_back, is_folder
from gradscope.store.names import Names
from gradscope.store.null_writer import NullWriter
from gradscope.store.storage import DEFAULT, Storage
from gradscope.store.writer import Writer
from gradscope.termination import Termination, undisturbed
from gradscope.torch_utils.eager import eager
from gradscope.torch_utils.selection import SelectNames, plain_model, recorded_modules, recorded_parameters
from gradscope.types import InputError, LearningFailure, Verdict

#: What to do when a run is found not to learn: a word, or a function that is given the diagnosis.
OnFailure = str | Callable[[Diagnosis], None]


OWN_DECAY = (
    "a step of {} takes the share {:.2g} of the weights by a decay that is not the weight_decay of its groups: no "
    "penalty is recorded for it; keep it in weight_decay (AdamW's, say), or leave it to gradscope.regularize()"
)


class LearningFailureWarning(UserWarning):
    """The run being recorded does not learn."""


class FindingWarning(UserWarning):
    """A rule beside the verdict has found something; given once a recording."""


def record(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    path: str | os.PathLike[str],
    *,
    penalty: tuple[Penalty, float] | Term | None = None,
    every: Given = 1,
    preset: str = "standard",
    select: SelectNames | None = None,
    modules: SelectNames | None = None,
    on_failure: OnFailure = "warn",
    steps_per_epoch: int | None = None,
    horizon: int | None = None,
    baseline_loss: float | None = None,
    mode: str = "create",
    resume_step: int | None = None,
    later_rows: str = "drop",
    checkpoint: Callable[[Path], object] | None = None,
    sinks: Sequence[Sink | str] = (),
    storage: Storage = DEFAULT,
) -> Recording:
    """Record a training run to an HDF5 file, from now until `Recording.close`.

    Args:
        model: the model, wrapped (DDP, compiled) or not; names are those of the plain model.
        optimizer: one optimizer or several. Its ``weight_decay`` is understood by itself. Of one that wraps another
            (Accelerate's, SAM, Lookahead, …), the one inside is recorded.
        path: the file to write; folders that are missing are made. A folder (or a path that ends in ``/``) gets a file
            with a name of its own: ``runs/2026-11-30-1.h5``, the day and a number.
        penalty: a penalty that the loop itself adds to the loss, as ``(L1(), strength)``, or a `Term` of its own. Log
            the loss that is minimised then, with the penalty in it: its value is taken off.
        every: record every n-th optimizer step, or a cadence (`Every`, `DenseStart`, `Windows`), or one for each kind
            of quantity: ``{"rows": 1, "activations": 10, "updates": 1, "histograms": 50}``.
        preset: ``cheap``, ``standard`` or ``full``; see the file format.
        select: the parameters to record: a regular expression or predicate on names, or a type of module.
        modules: the same for the modules whose activations are recorded.
        on_failure: when the run is found not to learn: ``ignore``, ``warn``, ``raise`` `LearningFailure`, or a function
            that is called with the `Diagnosis`, between two steps.
        steps_per_epoch: makes epochs known without `Recording.epoch`.
        horizon: the number of optimizer steps planned.
        baseline_loss: the loss of the best constant predictor (class-prior entropy). Assumed if not given.
        mode: ``create`` refuses an existing file, ``overwrite`` replaces a record, ``append`` goes on with one.
        resume_step: with ``append``, the step of the checkpoint, which comes next; after the last row if not given.
        later_rows: with ``append``, what becomes of rows from ``resume_step`` on: ``drop`` or ``keep``.
        checkpoint: writes all that training goes on from to the path it is given, such as a `gradscope.Checkpoint`.
            Called where epochs begin, now and then, if ``gradscope run`` restarts from checkpoints; and, with a path
            beside the record (``run.stopped.pt``), before gradscope ends a run on a failure.
        sinks: where else to show the main quantities and the verdict: objects of `gradscope.integrations.sinks`, or the
            names of plug-ins.
        storage: how soon a row is safe, and how it is compressed or rounded: a `Storage`.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    try:
        if child.instructions().probe_steps is not None:  # a probe of `gradscope suggest` reads every step
            every, preset = 1, "standard"
        return Recording(
            model,
            list(optimizer) if isinstance(optimizer, Sequence) else [optimizer],
            checks.absolute_path(path, "path"),
            named=is_folder(path),
            penalty=penalty,
            every=cadences(every, PRESETS[checks.one_of(preset, PRESETS, "preset")].cadences),
            preset=preset,
            select=select,
            modules=modules,
            on_failure=on_failure
            if callable(on_failure)
            else checks.one_of(on_failure, child.ON_FAILURE, "on_failure"),
            steps_per_epoch=None
            if steps_per_epoch is None
            else checks.positive_int(steps_per_epoch, "steps_per_epoch"),
            horizon=None if horizon is None else checks.positive_int(horizon, "horizon"),
            baseline_loss=None if baseline_loss is None else checks.finite(baseline_loss, "baseline_loss"),
            mode=mode,
            resume_step=resume.checked_step(resume_step, mode),
            later_rows=checks.one_of(later_rows, LATER_ROWS, "later_rows"),
            checkpoint=checkpoint,
            sinks=checked_sinks(sinks),
            storage=checks.instance(storage, Storage, "storage"),
        )
    except InputError as error:
        child.refuse(error)


_RECORDED_HERE: dict[str, int] = {}


def _destination(path: Path, asked: child.Instructions) -> Path:
    """Where to write: the environment beats the argument; a second recording writes beside the first."""
    if asked.out is None:
        return path
    first = checks.absolute_path(asked.out, "GRADSCOPE_OUT")
    number = _RECORDED_HERE.get(asked.out, 0) + 1
    return first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


class Recording:
    """A recording in progress; made by `record`. A context manager."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[Optimizer],
        path: Path,
        *,
        named: bool,
        penalty: tuple[Penalty, float] | Term | None,
        every: Mapping[str, Cadence],
        preset: str,
        select: SelectNames | None,
        modules: SelectNames | None,
        on_failure: OnFailure,
        steps_per_epoch: int | None,
        horizon: int | None,
        baseline_loss: float | None,
        mode: str,
        resume_step: int | None,
        later_rows: str,
        checkpoint: Callable[[Path], object] | None,
        sinks: Sequence[Sink],
        storage: Storage,
    ) -> None:
        asked = child.instructions()
        optimizers, wrapped = each_stepping(optimizers)
        parameters, unseen = recorded_parameters(model, optimizers, select)
        named = named and asked.out is None and mode != "append"  # into a folder, under a name of our own
        self.path = free_name(path) if named else _destination(path, asked)
        first = asked.out is not None and asked.out not in _RECORDED_HERE
        self._asked = asked if first else child.Instructions()  # a second recording: on its own
        self._probe = asked if first or asked.out is None else child.Instructions()
        if self.path.is_symlink():  # the record is where the link leads, and the link stays
            self.path = self.path.resolve()
        if self._asked.resume_step is not None:
            mode, resume_step = "append", self._asked.resume_step
        self._on_failure: OnFailure = asked.on_failure or on_failure
        self._on_success = asked.on_success or "ignore"
        self._checkpoint = checkpoint
        self._kept = Kept(Path(self._asked.checkpoints), checkpoint) if self._asked.checkpoints and checkpoint else None
        self._steps_per_epoch = steps_per_epoch
        self._told = False
        self._closed = False
        self._gave_way = False
        self.owned = False  # by a with block
        self._problem: str | None = None  # of the file, told already
        self._status = "running"
        self._process = os.getpid()
        self._blind = False
        self._warned_of_findings = False
        self._inexact: set[str] = set()
        self._names = {call: Names(call) for call in ("log", "epoch")}
        self._warnings: deque[str | Warning] = deque()  # for the training thread to give
        self._baseline_given = baseline_loss is not None
        self._baseline_known = self._settled = False
        self._baseline = AssumedBaseline()
        self._ranks = Ranks.here(list(parameters.values()))
        with contextlib.ExitStack() as undo:  # nothing stays behind if a later step fails
            undo.callback(self._ranks.leave)
            if self._ranks.writes:
                if named:
                    self.path = claim_name(path)
                    undo.callback(give_back, self.path)
                claim(self.path, mode)
            make_room(self.path, parameters.values())
            self._penalties = PenaltyTracker(optimizers, parameters, penalty, asked, mode == "append")
            undo.callback(self._penalties.detach)
            if unknown := self._penalties.unknown():
                self._warnings.append(f"{self.path}: {unknown}")
            own = self._penalties.own_decays()
            self._warnings.extend(f"{self.path}: {OWN_DECAY.format(name, share)}" for name, share in own.items())
            activations = None
            if PRESETS[preset].activations and self._ranks.measures:
                activations = Activations(recorded_modules(model, modules), PRESETS[preset].full, plain_model(model))
                undo.callback(activations.detach)
            self._describe(parameters, unseen, preset, every, asked)
            self._capture |= apart(plain_model(model), optimizers)
            if own:
                self._capture["decay_of_its_own"] = max(own.values())
            if wrapped:
                self._capture["optimizers"] = wrapped
            self._config["modules"] = activations.types if activations else {}
            if mode == "append" and baseline_loss is None and (had := resume.baseline(self.path)) is not None:
                baseline_loss, said = had
                self._capture |= said
            self._baseline_known = "baseline_loss" in self._capture
            told = (self._config, self._capture, baseline_loss, horizon, activations)
            judge = Judge(run_info(parameters, self._penalties, *told))
            rules = Checker(judge.info)
            self._live = LiveJudge(judge, self._settle_baseline, rules, self._on_findings)
            self._consumers: list[RowConsumer] = [Noting(self._note), self._live]
            forwards = Forwards(plain_model(model))
            undo.callback(forwards.detach)
            self._recorder = Recorder(
                optimizers,
                parameters,
                self._penalties.probe,
                self._consumers,
                preset=PRESETS[preset],
                cadences=every,
                activations=activations,
                forwards=forwards,
                before_step=self._before_step,
                warn=self._warnings.append,
                steps_missed=self._steps_missed,
                groups=self._penalties.places,
                ranks=self._ranks,
            )
            self._timeline = self._recorder.timeline
            undo.callback(self._recorder.detach)
            if (term := self._penalties.term) is not None:
                scaling = self._recorder.listeners.scaling
                term.amp = lambda: scaling.scale
                if not PRESETS[preset].full:  # which splits every update, recorded or not
                    term.wanted = self._timeline.next_is_recorded
            self._capture["buffer_bytes"] = self._recorder.buffer.bytes
            if (slow := without_kernels(parameters.values())) is not None:
                self._capture["kernels"] = slow
                self._warnings.append(slow)
            self._writer: Writer | NullWriter | MultiWriter = NullWriter()
            self._recorder.attach()
            self._first_output = self._baseline.watch(model)
            undo.callback(self._unwatch_output)
            if "baseline_loss" not in self._capture:
                self._baseline.targets = TargetWatch(lambda: self.next_step)
                undo.callback(self._baseline.targets.detach)
            self._termination = Termination()
            undo.callback(self._termination.restore)
            if self._ranks.writes:  # last, so that nothing that fails leaves a file
                how = {"mode": mode, "resume_step": resume_step, "later_rows": later_rows, "storage": storage}
                self._writer = new_file(self.path, judge.info, self._config, self._capture, activations, **how)
                if sinks:
                    told_by = (lambda: judge.info, lambda: self._timeline.step, self._warnings.append)
                    self._writer = MultiWriter(self._writer, [SinkThread(sink, *told_by) for sink in sinks])
                self._consumers.append(self._writer)
            self._first_step = self._go_on(judge, resume_step) if mode == "append" else 0
            self._recorder.begin_at(self._first_step)
            self._undo = undo.pop_all()
        if asked.out is not None:
            _RECORDED_HERE[asked.out] = _RECORDED_HERE.get(asked.out, 0) + 1
        child.opened(self)
        begun(self, parameters.values())
        atexit.register(self._at_exit)

    def _describe(
        self,
        parameters: Mapping[str, Tensor],
        unseen: list[str],
        preset: str,
        every: Mapping[str, Cadence],
        asked: child.Instructions,
    ) -> None:
        """``config`` and ``capture`` of the record."""
        rhythm = {kind: str(cadence) for kind, cadence in every.items()}
        settings = {"schedule": self._penalties.schedule, "steered": self._penalties.steered, "preset": preset}
        settings |= {"every": rhythm, "seed": asked.seed, "world_size": self._ranks.size}
        self._config = provenance.configuration(parameters, self._penalties.groups, settings)
        told = {} if child.inside_search() else asked.environment()
        self._capture = provenance.capture(parameters, unseen, self._penalties.sources(), rhythm, told)
        if self._ranks.by_hand:
            self._capture["loss_gradient"] = provenance.BY_HAND
        if self._baseline_given:
            self._capture["baseline_loss"] = "given"

    def _go_on(self, judge: Judge, resume_step: int | None) -> int:
        """The judge sees the rows that were kept; the step that comes next."""
        try:
            first = self._ranks.told(resume.first_step(self.path, resume_step))
            resume.remember(judge, self._live.rules, self.path, first)
            self._penalties.begin_at(first)
        except BaseException:
            self._writer.close("failed")
            raise
        return first

    # -- what a training loop calls ---------------------------------------------------------------

    @eager
    def log(self, /, **scalars: Tensor | float) -> None:
        """Scalars of the latest backward's step, such as ``loss=loss``. Tensors do not synchronise."""
        if self._is_over("log"):
            return
        self._tell_error()
        if not self._baseline.loss_function:
            self._baseline.see_loss(scalars.get("loss"))
            if self._baseline.is_pure and (said := self._penalties.loss_is_pure(self._baseline.loss_function)):
                self._capture["declared_penalty"] = said
                self._warnings.append(f"{self.path}: {said}")
        named = self._names["log"].stored(scalars)
        self._penalties.observe(named)
        self._recorder.log(named)

    @eager
    def epoch(self, /, epoch: int, **metrics: Tensor | float) -> None:
        """Epoch ``epoch`` starts here, or gets metrics such as ``accuracy=0.93`` (a second call adds)."""
        if self._is_over("call epoch"):
            return
        epoch = checks.whole_number(epoch, "epoch")
        if self._kept is not None and epoch != self._timeline.epoch and not self._told:
            self._kept.offer(self._timeline.step + 1)
        self._set_epoch(epoch)
        stored = self._names["epoch"].stored(metrics)
        numbers = {name: scalar(name, value, "epoch") for name, value in stored.items()}
        self._writer.epoch(epoch, numbers)
        if (loss := next((numbers[name] for name in VALIDATION if name in numbers), None)) is not None:
            self._live.rules.of_epochs[epoch] = loss

    @property
    def verdict(self) -> Diagnosis:
        """The diagnosis so far, from the rows that have left the device."""
        if not self._closed and not self._recorder.buffer.on_accelerator:
            self._recorder.fetch()
        return self._live.diagnosis(finished=self._status == "finished")

    def _repr_html_(self) -> str:
        """For notebooks: the verdict so far."""
        found = self.verdict
        tone = "failed" if found.failed else str(found.verdict)
        facts = {"record": self.path, "status": self._status, "rows judged": len(self._live.judge.series)}
        besides = [f"{finding.now}: {finding.suggestion}" for finding in found.findings]
        return card(found.sentence, tone, [*found.evidence, *besides], facts)

    @property
    def findings(self) -> list[Finding]:
        """What the rules beside the verdict have found so far, in the rows that have left the device."""
        if not self._closed and not self._recorder.buffer.on_accelerator:
            self._recorder.fetch()
        return list(self._live.rules.findings)

    @property
    def active_step(self) -> int | None:
        """The step at which the active phase began, where a penalty that waits for it comes on; None before."""
        return self._live.judge.active_step

    @property
    def next_step(self) -> int:
        """The number of the coming optimizer step: the ``resume_step`` of a checkpoint that is made now."""
        return self._timeline.step + 1

    def close(self, failed: bool = False) -> None:
        """Finish the file, as that of a run that has ``failed`` or not, and take every hook off."""
        self._close("failed" if failed else "finished")

    def give_way(self) -> None:
        """Finish the file, for another recording of the same path or parameters; later calls of the loop are ignored.

        Whose loop it is has been warned, and goes on training.
        """
        self._gave_way = True
        self.close()

    def _is_over(self, call: str) -> bool:
        """Whether there is nothing to be told any more; raises `InputError` after a `close` of the user's own."""
        if self._closed and not self._gave_way:
            raise InputError(f"the recording {self.path} is closed; {call} before close()")
        return self._closed

    def __enter__(self) -> Self:
        self.owned = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error of this rank alone the others may never come to the same place: then nothing is gathered.
        together = kind is None or issubclass(kind, LearningFailure | Stopped)
        self._close("finished" if kind is None else "failed", together)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Among the arguments of a script it comes into checkpoints; they hold the path of the record.
        return str, (str(self.path),)

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copied trainer logs to the same recording

    # -- between two steps ------------------------------------------------------------------------

    def _before_step(self, step: int) -> None:
        """Called when a row begins, before the optimizer has done anything."""
        self._tell_problem()
        if self._termination.asked:
            self._writer.event(step, "stopped", "ended by SIGTERM")
            self._close("failed", together=False)
            raise SystemExit(128 + signal.SIGTERM)
        self._penalties.step = step
        if self._steps_per_epoch is not None:
            self._set_epoch(step // self._steps_per_epoch)
        if self._penalties.changed():
            self._penalties.refresh()
            self._recorder.change(self._penalties.probe)
            judge = self._live.judge
            judge.info = replace(judge.info, penalty=self._penalties.name)
            self._writer.set_attribute("penalty", self._penalties.name)
            if self._penalties.grown() and "added_later" not in self._capture:
                text = f"the strength and learning rate of parameter groups added later (step {step}) are not recorded"
                self._capture["added_later"] = text
                self._warnings.append(f"{self.path}: {text}")
        if step == self._first_step:
            try:
                self._penalties.check()
                if child.ignores_its_checkpoint(self._asked):
                    raise InputError(
                        f"the script was to go on from {self._asked.resume}, and has not: call restore() or epochs() "
                        f"of gradscope.Checkpoint, or load gradscope.resume_from(), before the first step"
                    )
            except InputError as error:
                child.refuse(error)
        if self._baseline.shape:
            self._unwatch_output()
        self._give_warnings()
        if self._live.at_border(self._timeline.rows):
            self._act(step)
        if self._probe.probe_steps is not None and self._is_probed(self._probe.probe_steps):
            self._writer.event(step, "stopped", "the probe has the steps that it was to take")
            self._end("finished", "the probe is over")

    def _is_probed(self, steps: int) -> bool:
        """Whether this probe of `gradscope suggest` has shown what it is for."""
        rows = self._timeline.rows
        if rows >= steps or not self._probe.probe_escape or (rows - 1) % CHUNK:  # a row is finished when one follows
            return rows >= steps
        self._recorder.fetch()
        return self._live.escaped

    def _steps_missed(self, text: str) -> None:
        """The training goes on, and none of its steps is seen."""
        self._capture["steps_not_seen"] = text
        self._writer.set_attribute("capture", self._capture)
        self._writer.event(self._timeline.step, "warning", text)
        self._warnings.append(f"{self.path}: {text}")
        if not self._closed:  # no step will come to give it
            self._give_warnings()

    def _act(self, step: int) -> None:
        """At a border between chunks of rows: what the judge has decided takes effect."""
        stopping = self._on_success == "stop" or self._on_failure not in ("ignore", "warn")
        if stopping or self._penalties.waiting():
            found = self._ranks.agree(self._live.decisions(self._recorder.fetch))
            self._recorder.buffer.kick()
        else:
            found = self._live.latest  # nothing of the run hangs on it: no need to wait, nor to hurry
        if found.active_step is not None:
            self._penalties.active_phase(step)
        if found.diagnosis is not None and not self._told:
            self._told = True
            self._failed(step, found.diagnosis)
        if self._on_success == "stop" and found.settled_step is not None and found.failure is None:
            self._writer.event(step, "stopped", "the run learns and holds under its penalty")
            self._end("finished", "the run learns")

    def _give_warnings(self) -> None:
        while self._warnings:
            warnings.warn(self._warnings.popleft(), stacklevel=checks.users_line())

    def _tell_error(self) -> None:
        """An error of our own behind the training: one warning, no more rows, and the training goes on."""
        error = self._recorder.buffer.check()
        if error is None or "ended_by" in self._capture:
            return
        self._capture["ended_by"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self._writer.set_attribute("capture", self._capture)
        text = f"{self.path}: the recording ended, by an error that is not the training's ({self._capture['ended_by']})"
        self._warnings.append(f"{text}; the rows so far are kept, and the training goes on. Please report it")
        self._give_warnings()

    def _tell_problem(self) -> None:
        """Trouble with the file, met by whichever thread writes: one warning, and the training goes on."""
        if self._writer.problem != self._problem:
            self._problem = self._writer.problem
            warnings.warn(RuntimeWarning(self._problem), stacklevel=checks.users_line())

    def _failed(self, step: int, diagnosis: Diagnosis) -> None:
        self._writer.event(step, "verdict", diagnosis.sentence)
        text = diagnosis.explanation
        if callable(self._on_failure):
            self._on_failure(diagnosis)
        elif self._on_failure == "warn":
            warnings.warn(LearningFailureWarning(text), stacklevel=checks.users_line())
        elif self._on_failure == "raise":
            self._close("failed")
            raise LearningFailure(text, diagnosis)
        elif self._on_failure == "stop":
            self._writer.event(step, "stopped", f"stopped by gradscope: {diagnosis.sentence}")
            if self._checkpoint is not None:
                self._checkpoint(self.path.with_suffix(".stopped.pt"))
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

    def _unwatch_output(self) -> None:
        self._first_output.remove()

    def _set_epoch(self, epoch: int) -> None:
        self._timeline.epoch = epoch
        self._penalties.set_epoch(epoch)

    # -- in the background thread -----------------------------------------------------------------

    def _note(self, block: Block) -> None:
        """What is new with finished rows is noted before they are judged and written."""
        self._warn_of_a_blind_delay(block)
        if self._penalties.newly_acting():
            penalised = self._penalties.penalised()
            self._live.penalised(int(block["step"][0]), penalised)
            self._writer.set_static("penalised", penalised)
        if (noticed := self._penalties.scale_invariance.see(block)) is not None:
            self._capture["scale_invariant"] = noticed
            self._writer.set_attribute("capture", self._capture)
        for step, text in self._penalties.changes.take():
            self._writer.event(step, "strength", text)
        inexact = self._recorder.listeners.logged.inexact
        if new := inexact.keys() - self._inexact:
            self._inexact |= new
            text = "; ".join(f"log({name}=…): {inexact[name]}" for name in sorted(new))
            self._warnings.append(f"{text}: a record holds float32; log it in a larger unit")

    def _on_findings(self, new: list[Finding]) -> None:
        """Each is an event in the file; the first ones are warned about."""
        for finding in new:
            self._writer.event(finding.found_step, "finding", f"{finding.sentence}: {finding.suggestion}")
        told = self._on_failure in ("warn", "raise") or callable(self._on_failure)
        if told and self._ranks.writes and not self._warned_of_findings:
            self._warned_of_findings = True
            text = "; ".join(f"{finding.sentence}: {finding.suggestion}" for finding in new)
            self._warnings.append(FindingWarning(f"{text}. Recording.findings and gradscope diagnose tell all"))

    def _settle_baseline(self, rows: Rows) -> None:
        """Before rows are judged: what the baseline is, and whether it is told better than before."""
        if "loss" not in rows:
            return
        if not self._settled and (said := self._penalties.loss_below_zero(rows["loss"])) is not None:
            self._capture["declared_penalty"] = said
            self._warnings.append(f"{self.path}: {said}")
        first, self._settled = not self._settled, True
        found = None if self._baseline_known else self._baseline.see_rows(rows["step"], rows["loss"])
        if first:
            self._tell_slips()
        if found is None:
            return
        baseline, source = found
        history = [*self._capture.get("baseline_history", []), [int(rows["step"][0]), baseline, source]]
        self._capture |= {
            "baseline_loss": source,
            "baseline_history": history,
            "loss_function": self._baseline.loss_function,
            "loss_kind": self._baseline.loss_kind,
        }
        judge, rules = self._live.judge, self._live.rules
        told: dict[str, Any] = {
            "baseline_loss": baseline,
            "baseline_source": source,
            "baseline_history": history_of(history),
            "loss_kind": self._baseline.loss_kind,
        }
        judge.info = replace(judge.info, **told)
        rules.facts = replace(rules.facts, **told)
        self._writer.set_attribute("baseline_loss", baseline)
        self._writer.set_attribute("capture", self._capture)

    def _tell_slips(self) -> None:
        """With the first rows: what the script does that is hardly meant."""
        judge, rules = self._live.judge, self._live.rules
        if self._recorder.listeners.kept.never_cleared:
            self._capture["gradients_never_cleared"] = True
            judge.info, rules.facts = (replace(info, never_cleared=True) for info in (judge.info, rules.facts))
        if self._baseline.probabilities:
            self._capture["loss_takes_probabilities"] = True
            judge.info, rules.facts = (replace(info, probabilities=True) for info in (judge.info, rules.facts))
        if (share := self._recorder.listeners.scaled_weights.share) and not self._penalties.ours:
            self._capture["weights_scaled_by_hand"] = share
            both = judge.info.by_hand + share  # the optimizer's own decay is there already
            judge.info, rules.facts = (replace(info, by_hand=both) for info in (judge.info, rules.facts))
        if (left := self._recorder.listeners.gradients.cut_by_value) < 1:
            self._capture["cut_by_value"] = left
            judge.info, rules.facts = (replace(info, cut_by_value=left) for info in (judge.info, rules.facts))
        if judge.info.never_cleared or judge.info.probabilities or judge.info.by_hand or judge.info.cut_by_value < 1:
            self._writer.set_attribute("capture", self._capture)

    def _warn_of_a_blind_delay(self, block: Block) -> None:
        """A delay that waits for the record to show learning waits for ever if no loss is logged."""
        logged = self._baseline.loss_function != ""
        if self._penalties.waiting() and not logged and not self._blind and block["step"][-1] >= 64:
            self._blind = True
            text = "delayed:auto waits for the loss to fall, and no loss is logged: call Recording.log(loss=…)"
            self._writer.event(int(block["step"][-1]), "warning", text)
            self._warnings.append(text)

    # -- the end ----------------------------------------------------------------------------------

    def _close(self, status: str, together: bool = True) -> None:
        if self._closed:
            return
        self._recorder.buffer.together = together
        self._closed, self._status = True, status
        with undisturbed():
            self._finish(status)

    def _finish(self, status: str) -> None:
        atexit.unregister(self._at_exit)
        ended(self)
        self._undo.close()
        missing = self._recorder.listeners.missed.missing
        if (missing or self._recorder.buffer.check() is not None) and status == "finished":
            status = self._status = "failed"  # the rows end before the training does
        try:
            self._live.finish()
            self._capture |= self._recorder.capture()
            self._writer.set_attribute("capture", self._capture)
            judged = self._live.judge.series.step
            if not self._told and judged.size:
                diagnosis = self._live.diagnosis(finished=status == "finished")
                if diagnosis.failed and (self._on_failure == "warn" or callable(self._on_failure)):
                    # found in the last rows
                    self._failed(int(judged[-1]), diagnosis)
                elif diagnosis.verdict is not Verdict.UNDECIDED:
                    self._writer.event(int(judged[-1]), "verdict", diagnosis.sentence)
            self._tell_error()
        finally:
            self._writer.close(status)
            self._tell_problem()
            self._give_warnings()

    def _at_exit(self) -> None:
        """A script that never called close: finish the file all the same, unless this is a fork of it."""
        if os.getpid() != self._process:
            return
        self._close("failed" if getattr(sys, "last_value", None) is not None else "finished")


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(child.EXIT_STOPPED)
