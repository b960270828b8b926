"""One cell of the study: a recorded training at full length, and what its record says epoch by epoch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import gradscope
from analyses.common import images
from analyses.common.loop import Epoch, accuracy, crops, epochs
from analyses.common.penalties import subgradient
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.strong_regularization import equations
from analyses.strong_regularization.networks import build, count, zeros
from analyses.strong_regularization.plan import Protocol, protocol

#: The penalties of the plan; ``l1-subgradient`` goes through the optimizer's gradient, where momentum multiplies it.
KINDS = {"l2": gradscope.L2(), "l1": gradscope.L1(), "l1-subgradient": subgradient(gradscope.L1())}


@dataclass(frozen=True)
class Trained:
    """A finished training: its model, what each epoch came to, the judge's verdict, its accuracy on all test images.

    ``ended``: why it did not go to its last epoch, None where it did. ``alarm``: the first epoch (from 1) at whose end
    the judge called it failing, whatever it says later.
    """

    model: nn.Module
    epochs: list[Epoch]
    verdict: gradscope.Diagnosis
    accuracy: float
    ended: str | None
    alarm: int | None


def schedule(text: str, strength: float, how: Protocol, steps: int, size: float) -> gradscope.Schedule:
    """A schedule of the plan, whose lengths are shares of the run, as one of gradscope's.

    ``strong``: to 0 at the end of the run. ``ivanov:0.5``: bounded by so much of ``size``, ‖w‖₁ at the start.
    ``cpr:5``: bounds set after as many epochs, of ``steps`` each; the strength is then CPR's own rate of 1.
    """
    word, _, given = text.partition(":")
    if word == "strong":
        return gradscope.StrongFirst(strength, epochs=how.epochs)
    if word == "ivanov":
        return gradscope.Ivanov(strength, float(given) * size)
    if word == "cpr":
        return gradscope.CPR(warm_start=None if given == "inflection" else int(given) * steps)
    return gradscope.parse_schedule(text, strength)


class Hope:
    """Whether a run can come back: it cannot once loss, weights and the judge have said so for ``patience`` epochs.

    They do when the epoch's mean loss is within 2 % of that of guessing or above, the mean |w| below a third of its
    first value (the product of eleven such layers is 1e-5 of the first), and the verdict one of failing. A verdict
    alone ends nothing: that would hide a false alarm.
    """

    def __init__(self, model: nn.Module, classes: int, patience: int | None) -> None:
        self._weights = [p for p in model.parameters() if p.ndim > 1]
        self._first, self._guessing = self._size(), math.log(classes)
        self._patience, self._epochs = patience, 0

    def lost(self, loss: float, failed: bool) -> str | None:
        """After an epoch: the reason to end the run here, None where there is none."""
        if self._patience is None:
            return None
        hopeless = failed and loss >= 0.98 * self._guessing and self._size() < self._first / 3
        self._epochs = self._epochs + 1 if hopeless else 0
        reason = f"failed, loss of guessing and weights below a third for {self._patience} epochs"
        return reason if self._epochs >= self._patience else None

    def _size(self) -> float:
        return sum(float(p.detach().abs().sum()) for p in self._weights)


def run(cell: Cell, asked: Options, path: Path, sparse: bool = True) -> Trained:
    """Train a cell as the protocol of its scale has it, and record to ``path``.

    ``sparse``: every fourth step is recorded, unless somebody has to follow the run closely.
    """
    net, penalty, text = cell["net"], cell["penalty"], cell["schedule"]
    if asked.device == "cpu":
        torch.set_num_threads(1)  # nets this small gain nothing from a second core, which another training can use
    how = protocol(net, asked)
    data = images.load(asked.dataset, how.size, how.channels, asked.data, how.images).to(asked.device)
    watched = replace(data, x_test=data.x_test[: how.watched], y_test=data.y_test[: how.watched])
    torch.manual_seed(cell["seed"])
    model = build(net, data.shape, data.classes, how.width, how.dropout).to(asked.device)
    if not cell.get("biases", True):
        for bias in (p for p in model.parameters() if p.ndim == 1):
            bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=how.lr, momentum=0.9)
    rates = torch.optim.lr_scheduler.StepLR(optimizer, how.halve, 0.5)
    steps = -(-len(data.x) // how.batch)
    if penalty != "none":
        size = sum(float(p.detach().abs().sum()) for p in model.parameters() if p.ndim > 1)
        gradscope.regularize(optimizer, KINDS[penalty], schedule(text, cell["strength"], how, steps, size))
    augment = crops(how.padding, data.flips) if how.padding else None
    settings: dict[str, Any] = {"horizon": how.epochs * steps, "on_failure": "ignore", "mode": "overwrite"}
    if sparse and text != "delayed:auto" and not cell.get("layers"):
        settings["every"] = {"rows": 4, "activations": 12}
    hope = Hope(model, data.classes, how.hopeless)
    done, ended, alarm = [], None, None
    with gradscope.record(model, optimizer, path, steps_per_epoch=steps, **settings) as recording:
        for epoch in epochs(model, optimizer, watched, how.epochs, how.batch, run=recording, augment=augment):
            done.append(epoch)
            rates.step()
            failing = recording.verdict.failed
            if failing and alarm is None:
                alarm = len(done)
            if ended := hope.lost(epoch.loss, failing):
                break
    found = done[-1].test_accuracy if how.watched is None else accuracy(model, data.x_test, data.y_test)
    return Trained(model, done, recording.verdict, found, ended, alarm)


def train(cell: Cell, asked: Options) -> Row:
    """One cell, with its record in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        trained = run(cell, asked, path)
        with gradscope.open_run(path) as dataset:
            dataset.load()
            seen = traces(dataset)
            if cell.get("layers"):
                seen["of_layers"] = equations.layers(dataset)
    last, judged = trained.epochs[-1], trained.verdict
    return {
        "accuracy": round(trained.accuracy, 4),
        "train_accuracy": round(last.train_accuracy, 4),
        "loss": _short([last.loss])[0],
        "sparsity": round(zeros(trained.model), 4),
        "parameters": count(trained.model),
        "verdict": str(judged.verdict),
        "failed": judged.failed,
        "decided": judged.decided_step,
        "active": judged.active_step,
        "alarm": trained.alarm,
        "epochs": len(trained.epochs),
        "ended": trained.ended,
        "accuracies": [round(e.test_accuracy, 3) for e in trained.epochs],
        "losses": _short([e.loss for e in trained.epochs]),
        **seen,
    }


def traces(dataset: xr.Dataset) -> Row:
    """Means over the penalised weights together and over each epoch, as in the document's Figures 2 and 5.

    ``gradients``: mean |∂L/∂w|. ``weights``: mean |w|. ``proportions``: Σ|∂L/∂w| over itself and λΣ|∂Ω/∂w|.
    ``on``: the first recorded step with a penalty, None where none ever acted.
    """
    counted = dataset["penalised"] if bool(dataset["penalised"].any()) else dataset["numel"] > 0
    chosen = dataset.where(counted, drop=True)
    numel = chosen["numel"].isel(step=0) if "step" in chosen["numel"].dims else chosen["numel"]
    sums = {name: (chosen[f"{name}_mean_abs"] * numel).sum("parameter") for name in ("loss_gradient", "weight")}
    pull = (chosen["penalty_gradient_mean_abs"].fillna(0) * numel).sum("parameter")
    proportion = sums["loss_gradient"] / (sums["loss_gradient"] + pull)
    epoch = dataset["epoch"].values
    acting = np.flatnonzero((dataset["strength"] > 0).any("group").values)

    def by_epoch(values: xr.DataArray) -> list[float]:
        return _short([float(values.values[epoch == k].mean()) for k in np.unique(epoch)])

    total = float(numel.sum())
    return {
        "gradients": by_epoch(sums["loss_gradient"] / total),
        "weights": by_epoch(sums["weight"] / total),
        "proportions": by_epoch(proportion),
        "on": int(dataset["step"].values[acting[0]]) if len(acting) else None,
    }


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
