"""Begin a new record: config and capture, the run as the judge knows it, and the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from gradscope.processes import instructions
from gradscope.processes.instructions import Instructions
from gradscope.recorder.distributed import Ranks
from gradscope.recorder.kernels.magnitude_bins import BIN_EDGES
from gradscope.recorder.listeners.activations import Activations
from gradscope.recording import provenance
from gradscope.recording.notes import Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.recording.record_options import RecordOptions
from gradscope.run_info import RunInfo
from gradscope.store.writer import Writer


def describe(
    notes: Notes,
    options: RecordOptions,
    told: Instructions,
    parameters: Mapping[str, Tensor],
    unseen: Sequence[str],
    penalties: PenaltyTracker,
    ranks: Ranks,
) -> None:
    """Fill in ``config`` and ``capture``, as far as they are known before the first step."""
    rhythm = {kind: str(cadence) for kind, cadence in options.cadences_of(len(parameters)).items()}
    settings = {"schedule": penalties.schedule, "steered": penalties.steered, "preset": options.preset}
    settings |= {"every": rhythm, "seed": told.seed, "world_size": ranks.size}
    notes.config |= provenance.configuration(parameters, penalties.groups, settings)
    environment = {} if instructions.inside_search() else replace(told, siblings=None).environment()
    notes.capture |= provenance.capture(parameters, unseen, penalties.sources(), rhythm, environment)
    if told.siblings is not None:  # what the verdict rests on is in the record
        notes.capture["siblings"] = [sibling.as_dict() for sibling in told.siblings]
    if ranks.by_hand:
        notes.capture["loss_gradient"] = provenance.BY_HAND
    if options.baseline_loss is not None:
        notes.capture["baseline_loss"] = "given"


def run_info(
    parameters: Mapping[str, Tensor],
    penalties: PenaltyTracker,
    notes: Notes,
    baseline: float | None,
    horizon: int | None,
    activations: Activations | None,
) -> RunInfo:
    """Return what does not change from row to row."""
    numel = [p.numel() for p in parameters.values()]
    static = {"numel": numel, "penalised": penalties.penalised(), "group": penalties.group}
    modules = activations.names if activations else ()
    return RunInfo.of(parameters, modules, static, penalties.name, notes.config, notes.capture, baseline, horizon)


def new_file(notes: Notes, info: RunInfo, activations: Activations | None, options: RecordOptions) -> Writer:
    """Open the record of this run, empty or to be continued."""
    return Writer(
        notes.path,
        parameters=info.parameters,
        modules=activations.names if activations else [],
        groups=len(info.momentum),
        static={"numel": info.numel, "penalised": info.penalised, "group": info.group},
        attributes={
            "gradscope_version": notes.config["versions"]["gradscope"],
            "penalty": info.penalty,
            "baseline_loss": info.baseline_loss,
            "horizon": -1 if info.horizon is None else info.horizon,
            "config": notes.config,
            "capture": notes.capture,
        },
        bins=BIN_EDGES if activations and activations.gradients else None,
        units=activations.unit_names if activations else None,
        mode=options.mode,
        resume_step=options.resume_step,
        later_rows=options.later_rows,
        storage=options.storage,
    )
