"""The two protocols: ours where the document states none, and the one of its published notebook."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradscope
from analyses.common import images, loop
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.shapes_of_regularization.networks import NETS, Arctan, as_published, he, network
from analyses.shapes_of_regularization.published import Split, batch_accuracy, batch_loss, constant_loss, split
from analyses.shapes_of_regularization.weights import LargestOfAll, statistics
from gradscope.recorder.kernels.magnitude_bins import COLUMNS, histogram
from gradscope.recording import Recording, record
from gradscope.regularizers.attach import regularize
from gradscope.regularizers.groups import parse_penalty
from gradscope.types import InputError

DROPOUT = 1 / 3


@dataclass(frozen=True)
class Choice:
    """What we chose where the document is silent; fixed before the first run, and varied in the sensitivity part."""

    optimizer: str = "sgd"  # momentum .9
    lr: float = 0.02
    epochs: int = 40
    batch: int = 64
    factor: float = 1.0  # of every strength
    hidden: type[nn.Module] = nn.ReLU


CHOICE = Choice()
STRENGTHS = {"l1": 1e-4, "l2": 1e-3, "l3": 1e-3, "linf": 1e-2}
VARIANTS = {
    "rate / 3": replace(CHOICE, lr=CHOICE.lr / 3),
    "rate × 3": replace(CHOICE, lr=CHOICE.lr * 3),
    "epochs / 3": replace(CHOICE, epochs=CHOICE.epochs // 3),
    "epochs × 3": replace(CHOICE, epochs=CHOICE.epochs * 3),
    "Adam, 1e-3": replace(CHOICE, optimizer="adam", lr=1e-3),
    "strength / 10": replace(CHOICE, factor=0.1),
    "strength × 10": replace(CHOICE, factor=10.0),
    "arctan": replace(CHOICE, hidden=Arctan),
}


#: Variants of the notebook's protocol: other masks of dropout than its own, ``masks 0`` and so on.
MASKS = "masks "


@dataclass(frozen=True)
class Published:
    """The notebook's protocol: gradient descent on all training images at once, without momentum.

    One coefficient for every penalty. In experiment 1 it multiplies sums over the first matrix (for L1 a hundredth
    of it; the penalty of the second matrix counts signs, and has no gradient), in experiment 2 means over all
    weights, where the second matrix is counted twice.
    """

    coefficient: float = 0.05
    steps: int = 25_000
    every: int = 250  # steps from one measurement to the next
    dropout: float = 0.33

    def rate(self, net: str) -> float:
        """Of experiment 1, and of experiment 2."""
        return 1e-3 if net == "shallow" else 0.3


PUBLISHED = Published()


def train(cell: Cell, asked: Options) -> Row:
    """One training of either protocol."""
    torch.set_num_threads(1)  # the matrices are small
    with tempfile.TemporaryDirectory() as folder:
        return (_published if asked.paper else _chosen)(cell, asked, Path(folder) / "run.h5")


@cache
def prepared(asked: Options) -> images.ImageSet:
    """The images of the small scale. Raises `InputError` for a set that is not there, or not of the document."""
    if asked.paper and asked.dataset != "digits":
        raise InputError(f"--dataset is {asked.dataset}; the document's own protocol is for digits")
    return images.load(asked.dataset, size=8, channels=1, folder=asked.data).to(asked.device)


def _chosen(cell: Cell, asked: Options, path: Path) -> Row:
    choice = VARIANTS.get(cell["variant"], CHOICE)
    data = prepared(asked)
    torch.manual_seed(cell["seed"])
    dropout = DROPOUT if cell["penalty"] == "dropout" else 0.0
    model = network(NETS[cell["net"]], choice.hidden, classes=data.classes, dropout=dropout).to(asked.device)
    he(model)
    optimizer = _optimizer(model, choice)
    if cell["penalty"] in STRENGTHS:
        strength = gradscope.Constant(STRENGTHS[cell["penalty"]] * choice.factor)
        regularize(optimizer, parse_penalty(cell["penalty"]), strength)
    steps = choice.epochs * -(-len(data.x) // choice.batch)
    with _record(model, optimizer, path, steps, every=10) as run:
        found = list(loop.epochs(model, optimizer, data, choice.epochs, choice.batch, run=run))
    curve = {
        "at": [(epoch.number + 1) * steps // choice.epochs for epoch in found],
        "loss": [round(epoch.loss, 5) for epoch in found],
        "train": [round(epoch.train_accuracy, 4) for epoch in found],
        "validation": [round(epoch.test_accuracy, 4) for epoch in found],
    }
    accuracies = {"train": loop.accuracy(model, data.x, data.y), "validation": found[-1].test_accuracy}
    return {**accuracies, "curve": curve, **_ends(model, run)}


def _optimizer(model: nn.Module, choice: Choice) -> torch.optim.Optimizer:
    if choice.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=choice.lr)
    return torch.optim.SGD(model.parameters(), lr=choice.lr, momentum=0.9)


def _published(cell: Cell, asked: Options, path: Path) -> Row:
    data = split().to(asked.device)
    _, _, others = cell["variant"].partition(MASKS)
    torch.manual_seed(cell["seed"] + 1000 * int(others or 0))
    dropout = PUBLISHED.dropout if cell["penalty"] == "dropout" else 0.0
    model = network(NETS[cell["net"]], Arctan, dropout=dropout, on_outputs=True)
    as_published(model, cell["net"], cell["penalty"], cell["seed"], masks=not others)
    model.to(asked.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=PUBLISHED.rate(cell["net"]))
    penalise(optimizer, list(model.parameters()), cell["net"], cell["penalty"])
    curve: dict[str, list[float]] = {name: [] for name in ("at", "loss", "validation_loss", "train", "validation")}
    with _record(model, optimizer, path, PUBLISHED.steps, PUBLISHED.every, constant_loss(len(data.y))) as run:
        for step in range(PUBLISHED.steps):
            if step % PUBLISHED.every == 0:
                for name, value in zip(curve, (step, *_measured(model, data)), strict=True):
                    curve[name].append(round(value, 5))
            loss = batch_loss(model(data.x), data.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    accuracies = {"train": curve["train"][-1], "validation": curve["validation"][-1]}  # at the last measurement
    return {**accuracies, "curve": curve, **_ends(model, run)}


def penalise(optimizer: torch.optim.Optimizer, matrices: list[Tensor], net: str, penalty: str) -> None:
    """Attach the notebook's penalty. L0 has no gradient, and dropout is none."""
    coefficient = PUBLISHED.coefficient
    if penalty == "linf":
        regularize(optimizer, LargestOfAll(), gradscope.Constant(coefficient), matrices)
    elif penalty not in ("l1", "l2", "l3"):
        return
    elif net == "shallow":
        strength = coefficient / 100 if penalty == "l1" else coefficient
        regularize(optimizer, parse_penalty(penalty), gradscope.Constant(strength), matrices[:1])
    else:
        each = coefficient / (sum(matrix.numel() for matrix in matrices) + matrices[1].numel())
        once = [matrices[0], *matrices[2:]]
        regularize(optimizer, parse_penalty(penalty), gradscope.Constant(each), once)
        regularize(optimizer, parse_penalty(penalty), gradscope.Constant(2 * each), matrices[1:2])


@torch.no_grad()
def _measured(model: nn.Module, data: Split) -> tuple[float, float, float, float]:
    """Losses and accuracies of training and validation, in evaluation mode."""
    model.eval()
    scores = model(data.x), model(data.x_validation)
    model.train()
    parts = list(zip(scores, (data.y, data.y_validation), strict=True))
    losses, accuracies = ([float(of(*part)) for part in parts] for of in (batch_loss, batch_accuracy))
    return losses[0], losses[1], accuracies[0], accuracies[1]


def _record(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    path: Path,
    steps: int,
    every: int,
    baseline: float | None = None,
) -> Recording:
    return record(
        model, optimizer, path, preset="cheap", every=every, horizon=steps, baseline_loss=baseline, on_failure="ignore"
    )


def _ends(model: nn.Module, run: Recording) -> dict[str, Any]:
    """The verdict, what the tables say of the weights, and their histogram in the record's bins, counted at the end."""
    matrices = list(model.parameters())
    counts = torch.zeros(len(matrices), COLUMNS)
    histogram(matrices, counts)
    return {
        "verdict": str(run.verdict.verdict),
        "weights": statistics(matrices),
        "histogram": [int(count) for count in counts.sum(0)],
    }
