"""One training of the study, at either scale."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradscope
from analyses.auto_l2.methods import CONTROLS, LONG, SMALL, schedule_of
from analyses.auto_l2.networks import Size, lecun, network
from analyses.common import images, loop
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.recording import record  # by its own name, so that it is loaded before the workers are forked
from gradscope.regularizers.attach import regularize
from gradscope.report.summary import load_run
from gradscope.report.traces import strength_traces


@dataclass(frozen=True)
class Protocol:
    """SGD without momentum, learning rate .01, measured every 5 steps: both scales. ``pixels``: of embedded digits."""

    pixels: int
    size: Size
    batch: int
    epochs: int
    lr: float = 0.01


#: The batch is smaller than the document's 128, so that an epoch of 1,437 digits has 45 steps.
SMALL_SCALE = Protocol(pixels=16, size=Size(16, 32), batch=32, epochs=30)
PAPER_SCALE = Protocol(pixels=32, size=Size(), batch=128, epochs=200)


@cache
def prepared(asked: Options) -> images.ImageSet:
    """The images. Raises `InputError` for a set that is not there."""
    embedded = asked.dataset in images.EMBEDDED and not asked.paper
    size, channels = (SMALL_SCALE.pixels, 1) if embedded else (PAPER_SCALE.pixels, 3)
    return images.load(asked.dataset, size=size, channels=channels, folder=asked.data).to(asked.device)


def train(cell: Cell, asked: Options) -> Row:
    """One training, recorded."""
    torch.set_num_threads(1 if asked.device == "cpu" and not asked.paper else torch.get_num_threads())
    protocol = PAPER_SCALE if asked.paper else SMALL_SCALE
    epochs = protocol.epochs * (4 if cell["net"] == LONG else 1)
    data = prepared(asked)
    torch.manual_seed(cell["seed"])
    model = network(data.shape, data.classes, protocol.size, norm=cell["net"] != "plain")
    lecun(model, 2**0.5 * (SMALL if cell["method"] == CONTROLS[2] else 1))
    model.to(asked.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=protocol.lr)
    per_epoch = -(-len(data.x) // protocol.batch)
    if (schedule := schedule_of(cell["method"], per_epoch)) is not None:
        # Biases and normalisation too: the published code sums over all parameters.
        regularize(optimizer, gradscope.L2(), schedule, list(model.parameters()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with record(model, optimizer, path, preset="cheap", horizon=epochs * per_epoch, on_failure="ignore") as run:
            steps = loop.epochs(model, optimizer, data, epochs, protocol.batch, run=run, log_error=True)
            found = list(steps)
        return {
            "steps_per_epoch": per_epoch,
            "accuracy": [round(epoch.test_accuracy, 4) for epoch in found],
            "loss": [round(epoch.loss, 5) if math.isfinite(epoch.loss) else None for epoch in found],
            "train_accuracy": loop.accuracy(model, data.x, data.y),
            "verdict": str(run.verdict.verdict),
            **_seen(path, penalised=schedule is not None),
        }


def _seen(path: Path, penalised: bool) -> dict[str, Any]:
    """From the record: where the strength changed, and how small the weights were at their smallest, of the start.

    None of weights that overflowed in the end.
    """
    found: dict[str, Any] = {"strength": {"step": [], "value": []}}
    series = load_run(path)
    if penalised:
        trace = strength_traces([series]).curves[0]
        found["strength"] = {"step": trace.x.astype(int).tolist(), "value": [float(f"{y:.6g}") for y in trace.y]}
    with gradscope.open_run(path) as dataset:
        norm = (dataset["weight_norm"] ** 2).sum("parameter", skipna=False).values ** 0.5
    whole = bool(np.isfinite(norm).all())
    found["smallest_norm"] = round(float(norm.min() / norm[0]), 5) if whole else None
    found["last_norm"] = round(float(norm[-1] / norm[0]), 5) if whole else None
    return found
