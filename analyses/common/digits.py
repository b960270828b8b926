"""Deep ReLU nets without normalisation on scikit-learn's digits, recorded."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradscope
from gradscope.demo.data import digits
from gradscope.demo.training import accuracy


@dataclasses.dataclass(frozen=True)
class Setting:
    """One training run: SGD with momentum .9, batch 64, L2 on the weights."""

    layers: int
    init: str  # "he" or "pytorch"
    lr: float
    strength: float
    seed: int
    delay: int = 0  # steps without penalty
    width: int = 64
    epochs: int = 50


def network(layers: int, width: int, init: str) -> nn.Sequential:
    """``layers`` weight layers with ReLU between them; biases start at 0 under He initialisation."""
    parts: list[nn.Module] = []
    for before, after in pairwise([64, *[width] * (layers - 1), 10]):
        linear = nn.Linear(before, after)
        if init == "he":
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def train(setting: Setting, path: Path) -> float:
    """Train once, record to ``path``, and return the last validation accuracy."""
    torch.set_num_threads(1)
    data = digits()
    torch.manual_seed(setting.seed)
    model = network(setting.layers, setting.width, setting.init)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=0.9)
    gradscope.regularize(optimizer, gradscope.L2(), gradscope.Delayed(setting.strength, steps=setting.delay))
    steps = setting.epochs * -(-len(data.x) // 64)
    with gradscope.record(model, optimizer, path, horizon=steps, on_failure="ignore", mode="overwrite") as run:
        for epoch in range(setting.epochs):
            run.epoch(epoch)
            for batch in torch.randperm(len(data.x)).split(64):
                loss = cross_entropy(model(data.x[batch]), data.y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
    return accuracy(model, data)
