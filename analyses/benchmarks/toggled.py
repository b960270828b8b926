"""What a part of a recording costs a step: one and the same training in short stretches, with the part and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import gradscope
from gradscope.demo import training
from gradscope.demo.data import digits

LAYERS = 25
STEPS = 256  # in a stretch


class Trained:
    """A deep network of 50 parameters on the digits, under a recording that is closed at the end."""

    def __init__(self, path: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._data, self._model = digits(), training.network(LAYERS)
        for module in self._model:
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.003, momentum=0.9, weight_decay=0.002)
        self.run = gradscope.record(self._model, self._optimizer, path, on_failure="ignore")

    def __enter__(self) -> Trained:
        return self

    def __exit__(self, *_: object) -> None:
        self.run.close()

    def step(self) -> None:
        """One step, logged."""
        batch = torch.randint(len(self._data.x), (64,))
        loss = cross_entropy(self._model(self._data.x[batch]), self._data.y[batch])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.run.log(loss=loss)

    def stretch(self) -> tuple[float, float]:
        """What one step takes, on average: seconds on the clock, and of the processor in all threads."""
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            self.step()
        return (time.perf_counter() - began) / STEPS, (time.process_time() - busy) / STEPS


def toggled(path: Path, without: Callable[[], AbstractContextManager[Any]], pairs: int) -> list[dict[str, Any]]:
    """A line for each clock: the median ratio of a step with the part to one ``without`` it, and its standard error.

    The processor's time counts the background thread as well: what a step would cost if there were no second core.
    """
    found = []
    with Trained(path) as trained:
        trained.stretch()
        for turn in range(pairs):
            first = trained.stretch() if turn % 2 else None
            with without():
                bare = trained.stretch()
            found.append((first or trained.stretch(), bare))
    table = []
    for which, clock in enumerate(("wall", "processor, all threads")):
        ratios = [a[which] / b[which] for a, b in found]
        table.append({"clock": clock, "pairs": pairs,
                      "us_with": round(statistics.median(a[which] for a, _ in found) * 1e6),
                      "us_without": round(statistics.median(b[which] for _, b in found) * 1e6),
                      "median_ratio": round(statistics.median(ratios), 4),
                      "standard_error": round(1.25 * statistics.stdev(ratios) / len(ratios) ** 0.5, 4)})  # fmt: skip
    return table
