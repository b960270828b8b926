"""Small real trainings on digits, each with one fault that a rule is for, and healthy ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradscope
from gradscope.demo.data import Split, digits
from gradscope.diagnosis.rules.finding import Finding
from gradscope.store.reader import open_run

STEPS, PER_EPOCH = 150, 15


@dataclass
class Run:
    """How to train; ``expected``: the rule and kind that has to speak, None for a healthy run."""

    model: Callable[[], nn.Module]
    expected: tuple[str, str] | None = None
    lr: float = 0.05
    adam: bool = False
    decay: float = 0.0
    preset: str = "standard"
    steps: int = STEPS
    samples: int | None = None
    spoil: Callable[[int, Tensor], Tensor] = lambda step, x: x
    options: dict[str, Any] = field(default_factory=dict)


def mlp(activation: type[nn.Module] = nn.ReLU, hidden: int = 1, width: int = 32, init: Any = None) -> nn.Sequential:
    sizes = [64, *[width] * hidden, 10]
    model = nn.Sequential(*[part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), activation())][:-1])
    if init is not None:
        with torch.no_grad():
            init(model)
    return model


def scaled(layer: int, factor: float) -> Callable[[nn.Sequential], object]:
    return lambda model: model[layer].weight.mul_(factor)


def dead(model: nn.Sequential) -> None:
    model[0].bias.fill_(-30.0)


def stuck(model: nn.Sequential) -> None:
    model[0].bias.fill_(8.0)


def equal(model: nn.Sequential) -> None:
    for layer in (model[0], model[2]):
        layer.weight.fill_(0.02)


class Unused(nn.Module):
    """A network with a layer that its forward pass has forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.forgotten = mlp(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Masked(nn.Module):
    """A network one of whose layers is multiplied by 0: it gets a gradient, and that is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.branch = mlp(), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + 0.0 * self.branch(x)


def conv() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *body, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10))


def one_bad_batch(step: int, x: Tensor) -> Tensor:
    return x * 300 if step == 100 else x


def huge_batch(step: int, x: Tensor) -> Tensor:
    return x * 1e6 if step == 40 else x


RUNS: dict[str, Run] = {
    "dead, full": Run(lambda: mlp(init=dead), ("dead_units", "dead"), preset="full"),
    "dead": Run(lambda: mlp(init=dead), ("dead_units", "dead")),
    "saturated tanh": Run(lambda: mlp(nn.Tanh, init=scaled(0, 60)), ("saturated_activations", "saturated")),
    "saturated sigmoid": Run(lambda: mlp(nn.Sigmoid, init=stuck), ("saturated_activations", "saturated")),
    "large updates": Run(lambda: mlp(nn.Tanh), ("update_ratio", "large"), lr=0.3, decay=1.0, adam=True, preset="full"),
    "small updates": Run(mlp, ("update_ratio", "small"), lr=1e-7, preset="full"),
    "small updates, estimated": Run(mlp, ("update_ratio", "small"), lr=1e-7),
    "exploding": Run(lambda: mlp(hidden=3), ("exploding_tensor", "not finite"), lr=1e4),
    "growing": Run(lambda: nn.Sequential(nn.Linear(64, 10)), ("exploding_tensor", "growing"), spoil=huge_batch),
    "unused": Run(Unused, ("unchanged_parameters", "unchanged")),
    "unused, full": Run(Unused, ("unchanged_parameters", "unchanged"), preset="full"),
    "too deep": Run(lambda: mlp(nn.Sigmoid, hidden=7), ("poor_initialisation", "vanishing")),
    "too large at the end": Run(
        lambda: mlp(init=scaled(2, 300)), ("poor_initialisation", "loss"), lr=1e-6, options={"baseline_loss": 2.3}
    ),
    "equal": Run(lambda: mlp(init=equal), ("poor_initialisation", "equal"), preset="cheap"),
    "bad batch": Run(mlp, ("loss_spikes", "spike"), spoil=one_bad_batch),
    "few samples": Run(lambda: mlp(width=128), ("overfitting_gap", "gap"), lr=0.005, adam=True, samples=64, steps=240),
    "masked": Run(Masked, ("all_zero_gradients", "zero")),
    "healthy": Run(mlp, lr=0.1),
    "healthy tanh": Run(lambda: mlp(nn.Tanh, hidden=2), lr=0.1, preset="full"),
    "healthy conv": Run(conv, preset="full"),
    "healthy adam": Run(lambda: mlp(hidden=3), lr=1e-3, adam=True, preset="full"),
    "healthy, every 5th": Run(mlp, lr=0.1, steps=400, options={"every": 5}),
}


def train(run: Run, path: Path) -> list[Finding]:
    """Train, record to ``path``, and return what the live recording had found."""
    torch.manual_seed(0)
    data: Split = digits()
    x, y = data.x[: run.samples], data.y[: run.samples]
    if run.samples is not None:
        y = torch.randint(0, 10, y.shape)  # labels that can only be learned by heart
    model = run.model()
    if run.adam:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr, weight_decay=run.decay)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=run.lr, momentum=0.9)
    with gradscope.record(model, optimizer, path, on_failure="ignore", preset=run.preset, **run.options) as recording:
        for step in range(run.steps):
            if step % PER_EPOCH == 0:
                recording.epoch(step // PER_EPOCH)
            batch = torch.randint(0, len(x), (64,))
            loss = cross_entropy(model(run.spoil(step, x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recording.log(loss=loss)
            if step % PER_EPOCH == PER_EPOCH - 1:
                with torch.no_grad():
                    model.eval()
                    validation = cross_entropy(model(data.x_validation), data.y_validation)
                    model.train()
                recording.epoch(step // PER_EPOCH, val_loss=validation)
    return recording.findings


def load(path: Path) -> Any:
    with open_run(path) as dataset:
        return dataset.load()
