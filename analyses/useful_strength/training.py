"""A task on which a penalty is worth something: few digits, a fifth of their labels wrong, a deep net."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gradscope

LOW, HIGH = 1e-3, 0.03
EXAMPLES, BATCH, EPOCHS, WRONG = 400, 40, 32, 0.2


@cache
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """400 digits to train on, of whose labels a fifth is drawn anew, and 1,397 to validate on."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 8 - 0.6, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=(random := torch.Generator().manual_seed(0)))
    x, y = x[order], y[order]
    wrong = torch.rand(EXAMPLES, generator=random) < WRONG
    noisy = torch.where(wrong, torch.randint(10, (EXAMPLES,), generator=random), y[:EXAMPLES])
    return x[:EXAMPLES], noisy, x[EXAMPLES:], y[EXAMPLES:]


def train(strength: float, seed: int, path: Path) -> None:
    """320 steps of an un-normalised ReLU net of four weight layers, SGD with momentum."""
    torch.set_num_threads(1)
    x, y, x_val, y_val = data()
    torch.manual_seed(seed)
    hidden = [m for _ in range(2) for m in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *hidden, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2 * strength)
    steps = EPOCHS * EXAMPLES // BATCH
    with gradscope.record(model, optimizer, path, horizon=steps, steps_per_epoch=EXAMPLES // BATCH) as run:
        for epoch in range(EPOCHS):
            for batch in torch.randperm(EXAMPLES).split(BATCH):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
            with torch.no_grad():
                run.epoch(epoch, accuracy=(model(x_val).argmax(1) == y_val).float().mean())
