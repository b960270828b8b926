"""Open a recording: `record`, and the parts that it brings together."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope import checks
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.rules.checker import Checker
from gradscope.optimizers.wrapped import each_stepping
from gradscope.processes import instructions
from gradscope.processes.termination import Termination
from gradscope.recorder.baseline.assumed import AssumedBaseline
from gradscope.recorder.baseline.targets import TargetWatch
from gradscope.recorder.cadence import Given
from gradscope.recorder.consumer import RowConsumer
from gradscope.recorder.distributed import Ranks
from gradscope.recorder.kernels.table import without_kernels
from gradscope.recorder.listeners.activations import Activations
from gradscope.recorder.listeners.forwards import Forwards
from gradscope.recorder.ownership import apart
from gradscope.recorder.presets import PRESETS
from gradscope.recorder.recorder import Recorder
from gradscope.recording import open_recordings, resume
from gradscope.recording.actions import Actions
from gradscope.recording.baseline_settler import BaselineSettler
from gradscope.recording.between_steps import BetweenSteps
from gradscope.recording.closing import Closing
from gradscope.recording.destination import destination, has_begun, own_instructions
from gradscope.recording.live_judge import LiveJudge
from gradscope.recording.new_record import describe, new_file, run_info
from gradscope.recording.notes import Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.recording.record_options import OnFailure, RecordOptions
from gradscope.recording.recording import Recording
from gradscope.recording.row_notes import FindingNotes, RowNotes
from gradscope.recording.sink import Sink
from gradscope.recording.sink_thread import MultiWriter, SinkThread
from gradscope.recording.strength_check import StrengthCheck
from gradscope.regularizers.penalties import Penalty
from gradscope.regularizers.term import Term
from gradscope.restart.resumption import KeptCheckpoints
from gradscope.store.record_path import free_name, is_folder, prepare_path, release_name, reserve_name
from gradscope.store.storage import DEFAULT, Storage
from gradscope.store.writer import Writer
from gradscope.torch_utils.selection import (
    SelectModules,
    SelectTensors,
    plain_model,
    recorded_modules,
    recorded_parameters,
)
from gradscope.types import InputError

OWN_DECAY = (
    "a step of {} takes the share {:.2g} of the weights by a decay that is not the weight_decay of its groups: no "
    "penalty is recorded for it; keep it in weight_decay (AdamW's, say), or leave it to gradscope.regularize()"
)


def record(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    path: str | os.PathLike[str],
    *,
    penalty: tuple[Penalty, float] | Term | None = None,
    every: Given = 1,
    preset: str = "standard",
    select: SelectTensors | None = None,
    modules: SelectModules | None = None,
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
    check_strength: bool = False,
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
        select: the parameters to record: a regular expression on names, a predicate ``(name, parameter) -> bool`` (one
            of a single argument is given the name), a type of module, or the parameters themselves.
        modules: the same for the modules whose activations are recorded: ``(name, module) -> bool``.
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
        storage: how soon a row is safe, how it is compressed or rounded, where a copy goes: a `Storage`.
        check_strength: read the tolerance level off the first 15 to 40 steps, and warn where the strength lies more
            than four times beyond it (L2 under SGD or AdamW, from the start, every step recorded).

    Returns:
        The recording, which is a context manager.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """  # noqa: DOC502 - raised by what it calls
    try:
        if instructions.current().probe_steps is not None:  # a probe of `gradscope suggest` reads every step
            every, preset = 1, "standard"
        checks.on_this_machine(path, "a run is recorded (and copied elsewhere when it ends: Storage(copy_to=…))")
        file = checks.absolute_path(path, "path")
        options = RecordOptions(
            penalty=penalty,
            every=every,
            preset=preset,
            select=select,
            modules=modules,
            on_failure=on_failure,
            steps_per_epoch=steps_per_epoch,
            horizon=horizon,
            baseline_loss=baseline_loss,
            mode=mode,
            resume_step=resume_step,
            later_rows=later_rows,
            checkpoint=checkpoint,
            sinks=sinks,
            storage=storage,
            check_strength=check_strength,
        )
        optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        return open_recording(model, optimizers, file, is_folder(path), options)
    except InputError as error:
        instructions.refuse(error)


def open_recording(
    model: nn.Module, given: list[Optimizer], path: Path, in_folder: bool, options: RecordOptions
) -> Recording:
    """Put a recording together and begin it. Nothing stays behind if a later part fails.

    Args:
        model: as in `record`.
        given: the optimizers.
        path: of the file.
        in_folder: the record gets a name of its own in ``path``.
        options: of `record`.

    Returns:
        The recording.
    """
    told = instructions.current()
    asked = own_instructions(told)
    optimizers, wrappers = each_stepping(given)
    parameters, unseen = recorded_parameters(model, optimizers, options.select)
    in_folder = in_folder and told.out is None and options.mode != "append"
    target = free_name(path) if in_folder else destination(path, told)
    notes = Notes(target.resolve() if target.is_symlink() else target)  # the link stays, and leads to the record
    options = options.obeying(asked)
    goes_on = options.mode == "append"
    with ExitStack() as undo:
        ranks = Ranks.here(list(parameters.values()))
        undo.callback(ranks.leave)
        if ranks.writes:
            if in_folder:
                notes.path = reserve_name(path)
                undo.callback(release_name, notes.path)
            prepare_path(notes.path, options.mode)
        open_recordings.make_room(notes.path, parameters.values())
        penalties = PenaltyTracker(optimizers, parameters, options.penalty, asked, goes_on)
        undo.callback(penalties.detach)
        activations = None
        if PRESETS[options.preset].activations and ranks.measures:
            full = PRESETS[options.preset].full
            activations = Activations(recorded_modules(model, options.modules), full, plain_model(model))
            undo.callback(activations.detach)
        describe(notes, options, replace(told, siblings=asked.siblings), parameters, unseen, penalties, ranks)
        notes.config["modules"] = activations.types if activations else {}
        notes.capture |= apart(plain_model(model), optimizers)
        _tell_decays(notes, penalties)
        if wrappers:
            notes.capture["optimizers"] = wrappers
        baseline_loss = options.baseline_loss
        if goes_on and baseline_loss is None and (had := resume.baseline(notes.path)) is not None:
            baseline_loss, said = had
            notes.capture |= said
        judge = Judge(run_info(parameters, penalties, notes, baseline_loss, options.horizon, activations))
        forwards = Forwards(plain_model(model))
        undo.callback(forwards.detach)
        consumers: list[RowConsumer] = []
        recorder = Recorder(
            optimizers,
            parameters,
            penalties.probe,
            consumers,
            preset=PRESETS[options.preset],
            cadences=options.cadences_of(len(parameters)),
            activations=activations,
            forwards=forwards,
            warn=notes.warn,
            steps_missed=lambda text: between_steps.missed(text),  # of a training that has begun
            groups=penalties.places,
            ranks=ranks,
        )
        undo.callback(recorder.detach)
        _tell_recorder(notes, penalties, recorder, parameters, options)
        baseline, rules = AssumedBaseline(), Checker(judge.info)
        settler = BaselineSettler(baseline, judge, rules, notes, penalties, recorder.listeners)
        live = LiveJudge(judge, settler.settle, rules, FindingNotes(notes, ranks, options).add)
        consumers += [RowNotes(notes, penalties, live, recorder.listeners, baseline), live]
        if options.check_strength and ranks.writes:
            consumers.append(StrengthCheck(notes, live, penalties))
        closing = Closing(notes, live, recorder, options.on_failure, options.storage.copy_to)
        undo.callback(baseline.unwatch)
        baseline.watch(model)
        if "baseline_loss" not in notes.capture:
            baseline.targets = TargetWatch(lambda: recorder.timeline.step + 1)
            undo.callback(baseline.targets.detach)
        termination = Termination()
        undo.callback(termination.restore)
        actions = Actions(options, asked, notes, penalties, live, recorder, closing)
        between_steps = BetweenSteps(
            notes, penalties, live, recorder, actions, closing, termination, baseline, asked, options.steps_per_epoch
        )
        recorder.attach(between_steps.before_step)
        if ranks.writes:  # last, so that nothing that fails leaves a file
            notes.writer = _writer(notes, judge, recorder, activations, options)
            consumers.append(notes.writer)
        if goes_on:
            recorder.begin_at(_go_on(notes, judge, rules, penalties, ranks, options))
        closing.undo.enter_context(undo.pop_all())
    folder = asked.checkpoints
    kept = KeptCheckpoints(Path(folder), options.checkpoint) if folder and options.checkpoint else None
    recording = Recording(notes, recorder, penalties, live, settler, between_steps, closing, kept)
    has_begun(told)
    instructions.opened(recording)
    open_recordings.begun(recording, parameters.values())
    closing.undo.callback(open_recordings.ended, recording)
    atexit.register(closing.at_exit)
    closing.undo.callback(atexit.unregister, closing.at_exit)
    return recording


def _tell_decays(notes: Notes, penalties: PenaltyTracker) -> None:
    """Warn of decays that are not understood, or are none of the groups' own."""
    if unknown := penalties.unknown():
        notes.warn_here(unknown)
    own = penalties.own_decays()
    for name, share in own.items():
        notes.warn_here(OWN_DECAY.format(name, share))
    if own:
        notes.capture["decay_of_its_own"] = max(own.values())


def _tell_recorder(
    notes: Notes,
    penalties: PenaltyTracker,
    recorder: Recorder,
    parameters: Mapping[str, Tensor],
    options: RecordOptions,
) -> None:
    """Tell the recorder what the user's own term in the loss needs; note its buffer's size and missing kernels."""
    if (term := penalties.term) is not None:
        scaling = recorder.listeners.scaling
        term.amp = lambda: scaling.scale
        if not PRESETS[options.preset].full:  # which splits every update, recorded or not
            term.wanted = recorder.timeline.next_is_recorded
    notes.capture["buffer_bytes"] = recorder.buffer.bytes
    if (slow := without_kernels(parameters.values())) is not None:
        notes.capture["kernels"] = slow
        notes.warn(slow)


def _writer(
    notes: Notes, judge: Judge, recorder: Recorder, activations: Activations | None, options: RecordOptions
) -> Writer | MultiWriter:
    """Open the writer of the file, and of the sinks beside it."""
    file = new_file(notes, judge.info, activations, options)
    if not options.checked_sinks:
        return file
    told_by = (lambda: judge.info, lambda: recorder.timeline.step, notes.warn)
    return MultiWriter(file, [SinkThread(sink, *told_by) for sink in options.checked_sinks])


def _go_on(
    notes: Notes, judge: Judge, rules: Checker, penalties: PenaltyTracker, ranks: Ranks, options: RecordOptions
) -> int:
    """Show judge and rules the rows that were kept; return the step that comes next."""
    try:
        first = ranks.told(resume.first_step(notes.path, options.resume_step))
        resume.remember(judge, rules, notes.path, first)
        penalties.begin_at(first)
    except BaseException:
        notes.writer.close("failed")
        raise
    return first
