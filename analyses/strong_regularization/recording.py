"""What recording does to the nets of the study: nothing to their weights, and something to the time of a step."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradscope
from analyses.common import images
from analyses.common.loop import crops
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.strong_regularization.networks import build
from analyses.strong_regularization.plan import Protocol, protocol, setup

#: Stretches of the same steps, with a recording and without, taking turns in who is first.
PAIRS, STEPS = 20, 3


class Twin:
    """A training of a net of the study under L2, of which two from one seed are the same."""

    def __init__(self, net: str, how: Protocol, data: images.ImageSet, strength: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = build(net, data.shape, data.classes, how.width, how.dropout).to(data.x.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=how.lr, momentum=0.9)
        gradscope.regularize(self.optimizer, gradscope.L2(), gradscope.Constant(strength))
        self._data, self._how = data, how
        self._augment = crops(how.padding, data.flips) if how.padding else None

    def stretch(self, number: int, log: Callable[..., None] | None) -> tuple[float, float]:
        """Some steps on images, crops and dropout that the number decides.

        What one takes: seconds on the clock, and of the processor in all threads.
        """
        torch.manual_seed(number)
        batches = torch.randint(len(self._data.x), (STEPS, self._how.batch), device="cpu").to(self._data.x.device)
        began, busy = time.perf_counter(), time.process_time()
        for chosen in batches:
            x, y = self._data.x[chosen], self._data.y[chosen]
            loss = cross_entropy(self.model(x if self._augment is None else self._augment(x)), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if log is not None:
                log(loss=loss)
        if self._data.x.is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / STEPS, (time.process_time() - busy) / STEPS


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all parameters and buffers are equal bit by bit."""
    both = (one.state_dict(), other.state_dict())
    return all(torch.equal(value.view(torch.uint8), both[1][name].view(torch.uint8)) for name, value in both[0].items())


def compare(cell: Cell, asked: Options) -> Row:
    """A net trained with every step recorded and beside it without: equal weights, and the ratio of the times."""
    if asked.device == "cpu":
        torch.set_num_threads(1)
    how = protocol(cell["net"], asked)
    data = images.load(asked.dataset, how.size, how.channels, asked.data, how.images).to(asked.device)
    strength = min(setup(asked).grids["l2"])
    recorded, bare = (Twin(cell["net"], how, data, strength, cell["seed"]) for _ in range(2))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with gradscope.record(recorded.model, recorded.optimizer, path, on_failure="ignore") as recording:
            for number in range(-1, PAIRS):  # the first warms up
                first = recorded.stretch(number, recording.log) if number % 2 else None
                without = bare.stretch(number, None)
                with_it = first or recorded.stretch(number, recording.log)
                if number >= 0:
                    times.append((with_it, without))
    return {
        "identical": same(recorded.model, bare.model),
        "steps": (PAIRS + 1) * STEPS,
        "wall": compared([(ours[0], alone[0]) for ours, alone in times]),
        "processor": compared([(ours[1], alone[1]) for ours, alone in times]),
    }


def compared(times: Sequence[tuple[float, float]]) -> Row:
    """Median and quartiles of the ratios, and the median of the second of each pair in ms."""
    ratios = [ours / bare for ours, bare in times]
    low, middle, high = (round(value, 4) for value in statistics.quantiles(ratios, n=4))
    return {
        "ratio": middle,
        "quartiles": [low, high],
        "ms_without": round(1e3 * statistics.median(b for _, b in times), 2),
    }
