"""One training of the study: its last and its best weights, measured."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_score
from torch import Tensor, nn

import gradscope
from analyses.common import images
from analyses.common.loop import answers, epochs
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.regularization_strategies.networks import FILTERS, Whitening, network
from analyses.regularization_strategies.strategies import STRATEGIES, Strategy, adversarial, attach, moves
from gradscope.regularizers.strategies import EarlyStopping, fgsm
from gradscope.report.summary import load_run, over_time

#: Sizes of an FGSM perturbation, in standard deviations of the pixels; the first is the document's.
ATTACKS = (0.005, 0.05, 0.1, 0.2)
#: The network's series, thinned to so many points, are kept of the first seed.
POINTS = 100


@dataclass(frozen=True)
class Protocol:
    """``few``: training images, the rest of which stays unseen; 0: all, and nothing is left. ``attacked``: images that
    are attacked at most.
    """

    epochs: int
    batch: int
    rate: float
    filters: tuple[int, int, int]
    few: int = 0
    attacked: int = 10_000
    size: int = 32
    channels: int = 3


#: The document's; the rate, which it does not give, is that of tf.keras' Adamax.
PAPER = Protocol(epochs=200, batch=100, rate=1e-3, filters=FILTERS)
SMALL = Protocol(epochs=30, batch=25, rate=1e-2, filters=(4, 4, 4), few=200, attacked=500, size=8, channels=1)


@cache
def prepared(asked: Options) -> tuple[images.ImageSet, Tensor, Tensor]:
    """Training images with those that choose the epoch, and those that nothing has looked at (none at paper scale)."""
    how = PAPER if asked.paper else SMALL
    data = images.load(asked.dataset, how.size, how.channels, asked.data).to(asked.device)
    return images.few(data, how.few or len(data.x))


def train(cell: Cell, asked: Options) -> Row:
    """One training: its last and its best weights, measured, and gradscope's verdict on it."""
    strategy = STRATEGIES[cell["strategy"]]
    how = PAPER if asked.paper else SMALL
    how = replace(how, epochs=how.epochs * strategy.longer)
    data, unseen_x, unseen_y = prepared(asked)
    torch.manual_seed(cell["seed"])
    model = built(strategy, how, data)
    optimizer = torch.optim.Adamax(model.parameters(), lr=how.rate)
    attach(strategy, optimizer, model)
    with TemporaryDirectory() as folder:
        path = Path(folder, "run.h5")
        with gradscope.record(
            model, optimizer, path, preset="cheap", on_failure="ignore", horizon=steps(how, data)
        ) as run:
            curve, best_epoch, best = fit(model, optimizer, data, how, strategy, run)
        diagnosis = run.verdict.as_dict()
        traces = traced(path) if cell["seed"] == 0 else {}
    measured: dict[str, Any] = {"last": measure(model, data, unseen_x, unseen_y)}
    model.load_state_dict(best)
    measured["best"] = measure(model, data, unseen_x, unseen_y)
    attacked = (unseen_x, unseen_y) if len(unseen_x) else (data.x_test, data.y_test)
    x, y = (part[: how.attacked] for part in attacked)
    measured["attacked"] = {str(epsilon): under_attack(model, x, y, epsilon) for epsilon in ATTACKS}
    kept = {name: diagnosis[name] for name in ("verdict", "failed", "decided_step", "onset_step", "evidence")}
    return {**measured, "epochs": len(curve), "best_epoch": best_epoch, "curve": curve, "diagnosis": kept, **traces}


def built(strategy: Strategy, how: Protocol, data: images.ImageSet) -> nn.Sequential:
    """The network of a strategy, on the device of the data."""
    whitening = Whitening(data.x) if strategy.whitens else None
    made = network(
        data.shape, data.classes, how.filters, dropout=strategy.dropout, noise=strategy.noise, whitening=whitening
    )
    return made.to(data.x.device)


def steps(how: Protocol, data: images.ImageSet) -> int:
    """Optimizer steps planned."""
    return how.epochs * -(-len(data.x) // how.batch)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: images.ImageSet,
    how: Protocol,
    strategy: Strategy,
    run: gradscope.Recording,
) -> tuple[list[tuple[float, float]], int, dict[str, Tensor]]:
    """Train; training and validation accuracy of each epoch, and the epoch and weights of the best validation.

    The first of several that are equal, as Keras' ModelCheckpoint keeps it.
    """
    stopping = EarlyStopping(max(1, round(strategy.patience * how.epochs)), mode="max")
    curve: list[tuple[float, float]] = []
    best: dict[str, Tensor] = {}
    best_epoch, highest = -1, -1.0
    passes = epochs(
        model, optimizer, data, how.epochs, how.batch, run=run,
        augment=moves(data.flips) if strategy.moves else None,
        extra=adversarial(model, strategy.adversarial) if strategy.adversarial else None,
    )  # fmt: skip
    for epoch in passes:
        curve.append((round(epoch.train_accuracy, 4), round(epoch.test_accuracy, 4)))
        if epoch.test_accuracy > highest:
            best_epoch, highest, best = epoch.number, epoch.test_accuracy, deepcopy(model.state_dict())
        if stopping.update(epoch.test_accuracy) and strategy.patience:
            break
    return curve, best_epoch, best


def measure(model: nn.Module, data: images.ImageSet, unseen_x: Tensor, unseen_y: Tensor) -> dict[str, dict[str, float]]:
    """Accuracy and macro precision on each set of images."""
    sets = {"training": (data.x, data.y), "validation": (data.x_test, data.y_test), "unseen": (unseen_x, unseen_y)}
    return {name: scores(model, x, y) for name, (x, y) in sets.items() if len(x)}


def scores(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Shares; precision is 0 for a class that is never predicted, as the document's .01 for a constant is."""
    chosen, true = answers(model, x).argmax(1).cpu().numpy(), y.cpu().numpy()
    precision = precision_score(true, chosen, labels=np.unique(true), average="macro", zero_division=0)
    return {"accuracy": round(float((chosen == true).mean()), 5), "precision": round(float(precision), 5)}


def under_attack(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> float:
    """Accuracy on FGSM examples made with the model's own gradients, in evaluation mode."""
    model.eval()
    right = 0
    for part, labels in zip(x.split(1000), y.split(1000), strict=True):
        moved = fgsm(model, nn.functional.cross_entropy, part, labels, epsilon)
        right += int((answers(model, moved).argmax(1) == labels).sum())
    model.train()
    return round(right / len(y), 5)


def traced(path: Path) -> dict[str, Any]:
    """How the loss gradient's share of all gradients, and the weights, went, from the record."""
    run = load_run(path)
    found = {}
    for name in ("proportion", "weight"):
        curve = over_time([run], name, POINTS).curves[0]
        found[name] = {"step": curve.x.round(1).tolist(), "value": [float(f"{y:.4g}") for y in curve.y]}
    return {"traces": found}
