"""What a penalty through `regularize` costs against the optimizer's own ``weight_decay``.

Every way has a model and an optimizer of its own; they take turns within a round, a few steps each, so that whatever
else the machine does reaches all of them. A figure is the median over rounds of (time of this way)/(time with
``weight_decay``) in the same round: for whole training steps, and for ``optimizer.step()`` alone. On the CPU with one
thread it is the time of that thread, so that other work on the machine counts for little; on a GPU the wall clock.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope import (
    CPR,
    L1,
    L1L2,
    L2,
    AutoL2,
    Constant,
    Delayed,
    GroupLasso,
    Ivanov,
    LInf,
    Lp,
    Taper,
    regularize,
    regularize_activity,
)
from gradscope.regularizers.hooks import Attached

ROUNDS = 60
Attach = Callable[[torch.optim.Optimizer, nn.Module], Attached | None]


def everything(p: Tensor) -> bool:
    """The parameters that ``weight_decay`` reaches: all of them, so that both ways do the same arithmetic."""
    return True


WAYS: dict[str, Attach] = {
    "weight_decay": lambda optimizer, model: None,
    "weight_decay again": lambda optimizer, model: None,
    "L2 on the matrices": lambda o, m: regularize(o, L2(), Constant(1e-4)),
    "L2 constant": lambda o, m: regularize(o, L2(), Constant(1e-4), everything),
    "L2 delayed, now on": lambda o, m: regularize(o, L2(), Delayed(1e-4, steps=1), everything),
    "L2 delayed, still off": lambda o, m: regularize(o, L2(), Delayed(1e-4, steps=10**9), everything),
    "L2 taper": lambda o, m: regularize(o, L2(), Taper(1e-4, "sch01"), everything),
    "L2 autol2": lambda o, m: regularize(o, L2(), AutoL2(1e-4), everything),
    "L2 ivanov": lambda o, m: regularize(o, L2(), Ivanov(1e-4, 0.0), everything),
    "L2 cpr": lambda o, m: regularize(o, L2(), CPR(warm_start=5), everything),
    "L1": lambda o, m: regularize(o, L1(), Constant(1e-6), everything),
    "L1L2": lambda o, m: regularize(o, L1L2(), Constant(1e-6), everything),
    "L3": lambda o, m: regularize(o, Lp(3), Constant(1e-6), everything),
    "LInf": lambda o, m: regularize(o, LInf(), Constant(1e-6), everything),
    "group lasso": lambda o, m: regularize(o, GroupLasso(), Constant(1e-6)),
    "activity L2 on every ReLU": lambda o, m: regularize_activity(o, m, L2(), Constant(1e-6), nn.ReLU),
}


def digits_mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """8 weight layers of width 64, a batch of 64 digits (8 x 8)."""
    layers: list[nn.Module] = []
    for _ in range(7):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10)), torch.rand(64, 64), torch.randint(10, (64,))


def resnet() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18 (11.2 million parameters in 62 tensors), a batch of 32 images of 32 x 32."""
    return resnet18(num_classes=10), torch.rand(32, 3, 32, 32), torch.randint(10, (32,))


#: The net, steps in a round, and which share of the rounds it gets.
NETS = {"digits MLP 8x64": (digits_mlp, 20, 1.0), "ResNet-18, 32 x 32x32": (resnet, 1, 0.2)}
KINDS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "SGD": lambda p, decay: torch.optim.SGD(p, lr=1e-4, momentum=0.9, weight_decay=decay),
    "Adam": lambda p, decay: torch.optim.Adam(p, lr=1e-5, weight_decay=decay),
}


class Trainer:
    """One way of regularising one net, with clocks for the whole step and for the update."""

    def __init__(self, model: nn.Module, kind: str, way: str, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.optimizer = KINDS[kind](model.parameters(), 2e-4 if way.startswith("weight_decay") else 0.0)
        self.handle = WAYS[way](self.optimizer, model)

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds a step, and of it in ``optimizer.step()``."""
        clock = time.perf_counter if self.x.is_cuda else time.thread_time
        updating = 0.0
        self._wait()
        start = clock()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.x), self.y)
            loss.backward()
            before = clock()
            self.optimizer.step()
            updating += clock() - before
            if self.handle is not None and self.handle.schedule.measures_every:
                self.handle.observe(loss=loss)
        self._wait()
        return (clock() - start) / steps, updating / steps

    def _wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize()


def cells(asked: Options) -> list[Cell]:
    """Every net with every optimizer."""
    return [{"net": net, "optimizer": kind} for net in NETS for kind in KINDS]


def compare(cell: Cell, asked: Options) -> list[Row]:
    """One row a way: medians over rounds of the ratios to ``weight_decay``."""
    torch.set_num_threads(1)
    (make, steps, share), kind, device = NETS[cell["net"]], cell["optimizer"], asked.device
    torch.manual_seed(0)
    model, x, y = make()
    x, y = x.to(device), y.to(device)
    ways = {way: Trainer(copy.deepcopy(model).to(device), kind, way, x, y) for way in WAYS}
    for trainer in ways.values():
        trainer.run(6)
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(max(4, round((asked.more["rounds"] or ROUNDS) * share))):
        for way, trainer in ways.items():
            times[way].append(trainer.run(steps))
    base = times["weight_decay"]
    rows: list[Row] = []
    for way, own in times.items():
        step, update = ([a[i] / b[i] for a, b in zip(own, base, strict=True)] for i in (0, 1))
        quartiles = statistics.quantiles(step, n=4)
        rows.append(
            {
                "way": way,
                "step_ratio": f"{statistics.median(step):.3f}",
                "step_ratio_quartiles": f"{quartiles[0]:.3f} {quartiles[2]:.3f}",
                "update_ratio": f"{statistics.median(update):.2f}",
                "step_us": f"{1e6 * statistics.median(t[0] for t in own):.0f}",
                "update_us": f"{1e6 * statistics.median(t[1] for t in own):.0f}",
            }
        )
    return rows
