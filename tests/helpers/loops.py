"""Small models and plain training loops that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradscope
from gradscope.recording import Recording

Model = Callable[[], nn.Module]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def batches(count: int, size: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random classification batches every time, without touching the global RNG."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        yield torch.randn(size, 6, generator=generator), torch.randint(0, 3, (size,), generator=generator)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    run: Recording | None = None,
    each: Callable[[int], None] | None = None,
) -> list[float]:
    """A plain loop; ``each`` is called after backward and before the step."""
    losses = []
    for step, (x, y) in enumerate(batches(steps)):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if each is not None:
            each(step)
        optimizer.step()
        if run is not None:
            run.log(loss=loss)
        losses.append(loss.item())
    return losses


def narrow() -> nn.Module:
    """Deep and narrow: a strong penalty crushes it."""
    layers = [m for _ in range(3) for m in (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(6, 2))


def train_on_signs(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, run: Recording) -> None:
    """A task that a net can learn: the label is in the first feature."""
    for x, _ in batches(steps, 32):
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)


def recorded(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 20, **options: object):
    """Train under a recording and return the dataset, loaded."""
    with gradscope.record(model, optimizer, path, on_failure="ignore", **options) as run:  # type: ignore[arg-type]
        train(model, optimizer, steps, run)
    with gradscope.open_run(path) as dataset:
        return dataset.load()


def end_rank() -> NoReturn:
    """End one process of a distributed run whose results are on disk, without the end of its interpreter.

    torch's `DistributedDataParallel` keeps its process group past `destroy_process_group`, and a thread of it that
    still holds a tensor aborts an interpreter that ends (pytorch issue 190489, with or without gradscope).
    """
    dist.destroy_process_group()
    os._exit(0)


def a_deep_net(
    strength: float,
    seed: int,
    path: Path,
    norm: bool = False,
    rate: float = 0.05,
    every: int = 1,
    preset: str = "cheap",
    **options: object,
) -> None:
    """A deep narrow net on a task that it learns in some twenty steps: the label is in the first feature."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(6, 16, bias=not norm), *([nn.BatchNorm1d(16)] if norm else []), nn.ReLU()]
        layers += [nn.Linear(16, 6, bias=not norm), *([nn.BatchNorm1d(6)] if norm else []), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(6, 2))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=2 * strength)
    with gradscope.record(model, optimizer, path, horizon=300, every=every, preset=preset, **options) as run:  # type: ignore[arg-type]
        for x, _ in batches(300, 64):
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
