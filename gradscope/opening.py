"""What a new recording begins with: the run as the judge knows it, and the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gradscope.diagnosis.series import RunInfo, acting_beside
from gradscope.recorder.activations import Activations
from gradscope.recorder.histograms import BIN_EDGES
from gradscope.store.writer import Writer
from gradscope.wiring import Penalties


def run_info(
    parameters: Mapping[str, Tensor],
    penalties: Penalties,
    baseline: float | None,
    source: str,
    horizon: int | None,
    activations: Activations | None,
) -> RunInfo:
    """What does not change from row to row."""
    groups = penalties.groups
    return RunInfo(
        parameters=tuple(parameters),
        numel=np.array([p.numel() for p in parameters.values()], dtype=np.float64),
        penalised=penalties.penalised(),
        group=penalties.group,
        penalty=penalties.name,
        momentum=tuple(g.get("momentum", 0.0) for g in groups),
        beside=acting_beside(penalties.sources(), len(groups)),
        adaptive=tuple(g["adaptive"] for g in groups),
        baseline_loss=math.nan if baseline is None else baseline,
        baseline_source=source,
        horizon=horizon,
        modules=tuple(activations.names) if activations else (),
        steered=penalties.steered,
    )


def new_file(
    path: Path,
    info: RunInfo,
    config: Mapping[str, Any],
    capture: Mapping[str, Any],
    activations: Activations | None,
    **options: Any,
) -> Writer:
    """The record of this run, empty or gone on with. ``options``: how to open it, see `Writer`."""
    return Writer(
        path,
        parameters=info.parameters,
        modules=activations.names if activations else [],
        groups=len(info.momentum),
        static={"numel": info.numel, "penalised": info.penalised, "group": info.group},
        attributes={
            "gradscope_version": config["versions"]["gradscope"],
            "penalty": info.penalty,
            "baseline_loss": info.baseline_loss,
            "horizon": -1 if info.horizon is None else info.horizon,
            "config": config,
            "capture": capture,
        },
        bins=BIN_EDGES if activations and activations.gradients else None,
        units=activations.unit_names if activations else None,
        **options,
    )
