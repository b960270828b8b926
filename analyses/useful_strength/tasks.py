"""The trainings whose strength is tuned: small nets of several kinds on real data, a few core-seconds each."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradscope
from analyses.common import images
from analyses.common.networks import initialise
from analyses.prediction.networks import TextModel
from analyses.strong_regularization.networks import build
from gradscope.types import InputError

CONTEXT, WIDTH = 32, 32
#: Modules of the standard library that the transformer reads, and others that it is validated on.
READ, UNREAD = ("argparse", "ast", "difflib", "inspect"), ("doctest", "pickle", "tarfile", "typing")


@dataclass(frozen=True)
class Data:
    """Inputs and class numbers to train on and to validate on; ``classes`` of them."""

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor
    classes: int

    @property
    def constant(self) -> float:
        """The accuracy of the best constant answer: what a run ends with that learns nothing."""
        return float(
            torch.bincount(self.y_validation.flatten(), minlength=self.classes).max() / self.y_validation.numel()
        )


@dataclass(frozen=True)
class Task:
    """A training and the range of strengths that is asked about.

    ``delayed``: the weakest and the strongest strength of the grid's delayed arms, None for no such arms.
    ``examples``: of ``data`` to train on, which need not be read to know how long a run is.
    ``settles``: the learning rate falls to 0 along a half cosine; else it is constant.
    ``optimizer``: of the parameters, with this strength as its ``weight_decay`` of 2 λ.
    """

    name: str
    data: Callable[[], Data]
    model: Callable[[Data], nn.Module]
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer]
    examples: int
    epochs: int
    batch: int
    low: float = 1e-4
    high: float = 1.0
    delayed: tuple[float, float] | None = None
    settles: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """Steps; the last batch of an epoch may be a smaller one."""
        return -(-self.examples // self.batch)

    @property
    def steps(self) -> int:
        """Of a whole run."""
        return self.epochs * self.steps_per_epoch


def accuracies(task: Task, strength: float, seed: int, path: Path | None = None) -> Iterator[float]:
    """Train once, recorded to ``path`` where there is one, and yield the validation accuracy after each epoch."""
    torch.set_num_threads(1)
    data = task.data()
    torch.manual_seed(seed)
    model = task.model(data)
    optimizer = task.optimizer(model, strength)
    whole = task.steps if task.settles else 1_000_000_000
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, whole)
    recording = None
    if path is not None:
        recording = gradscope.record(model, optimizer, path, horizon=task.steps, steps_per_epoch=task.steps_per_epoch)
    try:
        for epoch in range(task.epochs):
            model.train()
            for batch in torch.randperm(len(data.x)).split(task.batch):
                loss = cross_entropy(model(data.x[batch]).flatten(0, -2), data.y[batch].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rates.step()
                if recording is not None:
                    recording.log(loss=loss)
            model.eval()
            with torch.no_grad():
                found = float((model(data.x_validation).argmax(-1) == data.y_validation).float().mean())
            if recording is not None:
                recording.epoch(epoch, accuracy=found)
            yield found
    finally:
        if recording is not None:
            recording.close()


def train(task: str, strength: float, seed: int, path: Path) -> None:
    """Train as `gradscope.tune_strength` asks for it."""
    for _ in accuracies(TASKS[task], strength, seed, path):
        pass


@cache
def digits() -> Data:
    """400 digits to train on, of whose labels a fifth is drawn anew, and 1,397 to validate on."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 8 - 0.6, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=(random := torch.Generator().manual_seed(0)))
    x, y = x[order], y[order]
    wrong = torch.rand(400, generator=random) < 0.2
    noisy = torch.where(wrong, torch.randint(10, (400,), generator=random), y[:400])
    return Data(x[:400], noisy, x[400:], y[400:], 10)


@cache
def pairs(count: int) -> Data:
    """So many pairs of digits at 16 pixels, a hundred classes; 500 pairs of other digits to validate on."""
    found = images.load("pairs", 16, 1)
    return Data(found.x[:count], found.y[:count], found.x_test[:500], found.y_test[:500], 100)


@cache
def photographs(count: int) -> Data:
    """So many of CIFAR-10's images in half their resolution, and 1,000 to validate on."""
    found = images.load("cifar10", count=count)
    x, x_test = (nn.functional.avg_pool2d(values, 2) for values in (found.x, found.x_test[:1000]))
    return Data(x, found.y, x_test, found.y_test[:1000], 10)


@cache
def text(count: int) -> Data:
    """So many stretches of Python's own sources, each character's answer the next one; 100 of other modules."""
    folder = Path(sysconfig.get_paths()["stdlib"])

    def codes(names: tuple[str, ...]) -> NDArray[np.int64]:
        joined = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names)
        return np.frombuffer(joined.encode("ascii", "ignore"), dtype=np.uint8).astype(np.int64)

    def stretches(names: tuple[str, ...], wanted: int) -> tuple[Tensor, Tensor]:
        found = codes(names)
        starts = np.linspace(0, len(found) - CONTEXT - 1, wanted).astype(int)
        rows = torch.from_numpy(np.stack([found[start : start + CONTEXT + 1] for start in starts]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    return Data(*stretches(READ, count), *stretches(UNREAD, 100), 128)


def characters(data: Data) -> nn.Module:
    """A causal transformer of two blocks over characters."""
    return TextModel(data.classes, 2, WIDTH, 0.0, CONTEXT)


def perceptron(data: Data) -> nn.Module:
    """Four weight layers with ReLU, as PyTorch initialises them."""
    hidden = [m for _ in range(2) for m in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *hidden, nn.Linear(64, data.classes))


def convolutions(data: Data) -> nn.Module:
    """Four convolutions with pooling after each second one, and a linear layer, for photographs at 16 pixels."""
    parts: list[nn.Module] = []
    for before, after in ((3, 16), (16, 16), (16, 32), (32, 32)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if before == after else []
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(512, data.classes))
    initialise(model)
    return model


def published(name: str, width: float, data: Data) -> nn.Module:
    """One of the first document's nets at a share of its width, without dropout."""
    channels, rows, columns = data.x.shape[1:]
    return build(name, (channels, rows, columns), data.classes, width, 0.0)


def sgd(rate: float, model: nn.Module, strength: float) -> torch.optim.Optimizer:
    """SGD with momentum .9."""
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=2 * strength)


def adamw(rate: float, model: nn.Module, strength: float) -> torch.optim.Optimizer:
    """AdamW."""
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=2 * strength)


#: Of the first document's nets on pairs of digits: data, epochs and batch, and the range of strengths.
ON_PAIRS: dict[str, Any] = {
    "data": partial(pairs, 1280),
    "examples": 1280,
    "epochs": 24,
    "batch": 64,
    "low": 1e-5,
    "high": 0.1,
}
TASKS = {
    task.name: task
    for task in (
        Task("digits", digits, perceptron, partial(sgd, 0.05), 400, 32, 40, delayed=(0.008, 0.1), settles=False),
        Task("text", partial(text, 200), characters, partial(adamw, 1e-2), 200, 40, 40, 1e-3, 10.0),
        Task(
            "vgg11", model=partial(published, "vgg11", 1 / 8), optimizer=partial(sgd, 0.02), delayed=(0.002, 0.05),
            **ON_PAIRS,
        ),
        Task("alexnet", model=partial(published, "alexnet", 1 / 8), optimizer=partial(sgd, 0.02), **ON_PAIRS),
        Task(
            "cifar10", partial(photographs, 1000), convolutions, partial(sgd, 0.02), 1000, 20, 50, delayed=(0.01, 0.5),
        ),
    )
}  # fmt: skip


def named(name: str) -> Task:
    """A task by its name."""
    if name not in TASKS:
        raise InputError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
