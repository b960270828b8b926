"""Plain training loop, recorded: a deep ReLU network without normalisation, SGD with momentum.

    python -m gradscope.demo.training --weight-decay 0.08 --seed 0 --out run.h5

It knows nothing of restarts and searches; `gradscope run` and `gradscope search` drive it as they would drive any other
script.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradscope
from gradscope.demo.data import Split, digits
from gradscope.restart.history import RunResult

LAYERS, WIDTH, LEARNING_RATE, MOMENTUM, BATCH, EPOCHS = 6, 64, 0.03, 0.9, 64, 50


def network(layers: int = LAYERS, width: int = WIDTH) -> nn.Sequential:
    """Build ``layers`` weight layers with ReLU between them, with PyTorch's own initialisation."""
    sizes = [64, *[width] * (layers - 1), 10]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def accuracy(model: nn.Module, data: Split) -> float:
    """Compute the share of validation images that are classified correctly."""
    model.eval()
    with torch.no_grad():
        right = (model(data.x_validation).argmax(1) == data.y_validation).float().mean().item()
    model.train()
    return float(right)


def parts(weight_decay: float, seed: int) -> tuple[nn.Sequential, torch.optim.SGD]:
    """Build the network of a seed and its optimizer; biases do not decay."""
    torch.set_num_threads(1)  # tiny layers: a second thread costs more than it brings
    torch.manual_seed(seed)
    model = network()
    biases = [p for p in model.parameters() if p.ndim == 1]
    weights = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
    return model, torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM)


def horizon(data: Split) -> int:
    """Return the number of optimizer steps of a whole training."""
    return EPOCHS * -(-len(data.x) // BATCH)


def loop(run: gradscope.Recording, model: nn.Module, optimizer: torch.optim.Optimizer, data: Split) -> None:
    """Train all epochs, recorded."""
    for epoch in range(EPOCHS):
        run.epoch(epoch)
        for batch in torch.randperm(len(data.x)).split(BATCH):
            loss = cross_entropy(model(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
        run.epoch(epoch, accuracy=accuracy(model, data))


def train(weight_decay: float, seed: int, path: str | Path, *, on_failure: str = "ignore") -> None:
    """Train once and record to ``path``."""
    data = digits()
    model, optimizer = parts(weight_decay, seed)
    with gradscope.record(model, optimizer, path, horizon=horizon(data), on_failure=on_failure) as run:
        loop(run, model, optimizer, data)


def train_with_restarts(weight_decay: float, seed: int, folder: str | Path) -> RunResult:
    """Train; stop when learning fails, and train again with the penalty delayed. All attempts go to ``folder``."""
    data = digits()
    model, optimizer = parts(weight_decay, seed)
    attempts = gradscope.Restarts(model, optimizer, path=folder, horizon=horizon(data))
    for attempt in attempts:
        with attempt as run:
            loop(run, model, optimizer, data)
    assert attempts.result is not None
    return attempts.result


def trial(strength: float, seed: int, path: Path) -> None:
    """Train as `gradscope.search_tolerance` calls it: λ of L2 is half the weight decay."""
    train(2 * strength, seed, path)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="run.h5")
    given = parser.parse_args()
    train(given.weight_decay, given.seed, given.out)


if __name__ == "__main__":
    main()
