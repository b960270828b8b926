"""The settings of the study, and one training run of each kind."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradscope
from analyses.common import digits as common
from gradscope.demo.data import Split, digits
from gradscope.demo.training import accuracy
from gradscope.regularizers.groups import parse_penalty
from gradscope.restart.attempt import Attempt

SHARE = 0.05  # of the rows at the end, and of the baseline loss: the label of a learning failure


@dataclass(frozen=True)
class Setting:
    """What does not change with the strength: task, network, optimizer (SGD, momentum .9), horizon."""

    task: str = "digits"
    kind: str = "mlp"
    layers: int = 8
    width: int = 64
    init: str = "he"
    penalty: str = "l2"
    lr: float = 0.03
    batch: int = 64
    epochs: int = 50


SETTINGS = {
    "mlp-8": Setting(layers=8),
    "mlp-10": Setting(layers=10),
    "mlp-12": Setting(layers=12),
    "mlp-16": Setting(layers=16, lr=0.02),
    "mlp-8-default-init": Setting(layers=8, init="pytorch"),
    "mlp-10-l1": Setting(layers=10, penalty="l1"),
    "conv-8": Setting(kind="conv", layers=8, width=8),
    "conv-8-l1": Setting(kind="conv", layers=8, width=8, penalty="l1"),
    "pairs-mlp-12": Setting(task="pairs", layers=12, width=128, lr=0.05, batch=128),
}


@cache
def data(task: str) -> Split:
    """The digits, or 2,560 pairs of digits side by side: a hundred classes; training and validation share no digit."""
    single = digits()
    if task == "digits":
        return single
    x, y = _pairs(single.x, single.y, 2560, seed=1)
    return Split(x, y, *_pairs(single.x_validation, single.y_validation, 1000, seed=2))


def _pairs(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    chosen = torch.from_numpy(np.random.default_rng(seed).integers(len(x), size=(count, 2)))
    images = x.view(-1, 8, 8)[chosen]
    return torch.cat([images[:, 0], images[:, 1]], dim=-1).flatten(1), 10 * y[chosen[:, 0]] + y[chosen[:, 1]]


def network(setting: Setting) -> nn.Module:
    """An MLP, or 3 × 3 convolutions on 8 × 8 pixels, halved once, and a linear layer; ReLU, no normalisation."""
    if setting.kind == "mlp" and setting.task == "digits":
        return common.network(setting.layers, setting.width, setting.init)
    parts: list[nn.Module] = []
    if setting.kind == "mlp":
        for before, after in pairwise([128, *[setting.width] * (setting.layers - 1)]):
            parts += [nn.Linear(before, after), nn.ReLU()]
        parts.append(nn.Linear(setting.width, 100))
    else:
        parts.append(nn.Unflatten(1, (1, 8, 8)))
        for i, (before, after) in enumerate(pairwise([1, *[setting.width] * (setting.layers - 1)])):
            parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if i == 0 else [])]
        parts += [nn.Flatten(), nn.Linear(16 * setting.width, 10)]
    model = nn.Sequential(*parts)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return model


@dataclass(frozen=True)
class Outcome:
    """``learned``: the label at the horizon, from the losses alone. ``steps``: of all attempts together."""

    learned: bool
    accuracy: float
    steps: int
    attempts: tuple[Attempt, ...] = ()
    reason: str = ""


class Loop:
    """One network with its optimizer and penalty, and the plain loop that trains it."""

    def __init__(self, setting: Setting, seed: int, strength: float, schedule: str = "constant") -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.setting, self.data = setting, data(setting.task)
        self.model = network(setting)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=setting.lr, momentum=0.9)
        self.per_epoch = -(-len(self.data.x) // setting.batch)
        gradscope.regularize(
            self.optimizer,
            parse_penalty(setting.penalty),
            gradscope.parse_schedule(schedule, strength),
            steps_per_epoch=self.per_epoch,
        )

    @property
    def horizon(self) -> int:
        return self.setting.epochs * self.per_epoch

    def steps(self) -> Iterator[tuple[int, Tensor]]:
        """Train to the horizon: the epoch and the loss of every step."""
        for epoch in range(self.setting.epochs):
            for batch in torch.randperm(len(self.data.x)).split(self.setting.batch):
                loss = cross_entropy(self.model(self.data.x[batch]), self.data.y[batch])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                yield epoch, loss.detach()

    def accuracy(self) -> float:
        return accuracy(self.model, self.data)


def enough(losses: Tensor, setting: Setting) -> bool:
    """The label: the mean loss of the last 5 % of the steps is 5 % below the entropy of the classes."""
    y = data(setting.task).y
    share = torch.bincount(y) / len(y)
    baseline = -(share * share.clamp_min(1e-12).log()).sum()
    horizon = setting.epochs * -(-len(y) // setting.batch)
    return len(losses) == horizon and bool(losses[-max(1, int(SHARE * horizon)) :].mean() < (1 - SHARE) * baseline)


def restarted(setting: Setting, strength: float, seed: int) -> Outcome:
    """Under `gradscope.Restarts`, which restarts it with delayed:auto where its judge finds a failure."""
    loop = Loop(setting, seed, strength)
    losses: list[Tensor] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of failures that remain: they are the result
        restarts = gradscope.Restarts(loop.model, loop.optimizer, path=Path(folder) / "run", horizon=loop.horizon)
        for attempt in restarts:
            losses = []
            with attempt as run:
                for epoch, loss in loop.steps():
                    run.epoch(epoch)
                    run.log(loss=loss)
                    losses.append(loss)
        result = restarts.result
    assert result is not None
    learned = bool(losses) and enough(torch.stack(losses), setting)
    return Outcome(learned, loop.accuracy(), result.steps, result.attempts, result.reason)
