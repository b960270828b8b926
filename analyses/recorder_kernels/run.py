"""What the recorder's kernels cost on the host: python -m analyses.recorder_kernels.run (about two minutes).

Writes kernels.csv: the median microseconds of each way, measured in turn so that all see the same neighbours.
"""

from __future__ import annotations

import csv
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from gradscope.recorder.kernels import unit_statistics
from gradscope.recorder.kernels.magnitude_bins import COLUMNS, HISTOGRAM_EDGES, histogram
from gradscope.recorder.kernels.statistics import QUANTITIES, foreach_table
from gradscope.recorder.kernels.table import TablePlan, bytes_read
from gradscope.recorder.listeners.activations import Activations

CHEAP = ("gradient_l1", "gradient_norm", "weight_l1", "weight_norm")
ROUNDS = 101
Row = tuple[str, str, float]


def former_numpy(weights: Sequence[Tensor], gradients: Sequence[Tensor], quantities: Sequence[str]) -> Tensor:
    """The way for small models until this study: laid end to end, one numpy call a quantity."""
    w, g = (torch.cat([t.detach().reshape(-1) for t in tensors]).numpy() for tensors in (weights, gradients))
    at = np.cumsum([0, *[t.numel() for t in weights][:-1]])
    rows = {
        "gradient_l1": lambda: np.add.reduceat(np.abs(g), at),
        "gradient_norm": lambda: np.sqrt(np.add.reduceat(g * g, at)),
        "gradient_max": lambda: np.maximum.reduceat(np.abs(g), at),
        "gradient_nonfinite": lambda: np.add.reduceat((~np.isfinite(g)).astype(np.float32), at),
        "weight_l1": lambda: np.add.reduceat(np.abs(w), at),
        "weight_norm": lambda: np.sqrt(np.add.reduceat(w * w, at)),
        "weight_max": lambda: np.maximum.reduceat(np.abs(w), at),
        "weight_nonzero": lambda: np.add.reduceat((w != 0).astype(np.float32), at),
        "dot": lambda: np.add.reduceat(w * g, at),
    }
    return torch.from_numpy(np.stack([rows[name]() for name in quantities]))


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Microseconds a call, each way in turn, `ROUNDS` times."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter() - start) / repeats * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def mlp() -> nn.Module:
    """Eight layers of 64 on the digits, 29,770 parameters in 16 tensors."""
    return nn.Sequential(*[nn.Linear(64, 64) for _ in range(7)], nn.Linear(64, 10))


def record(plan: TablePlan, weights: Sequence[Tensor], out: Tensor) -> None:
    """As the recorder calls it, gradients looked up at each step."""
    plan(weights, [w.grad for w in weights], out)


def read(arrays: Sequence[np.ndarray]) -> None:
    for array in arrays:
        np.vdot(array, array)


def tables(name: str, model: nn.Module, repeats: int) -> list[Row]:
    weights = list(model.parameters())
    gradients = [torch.randn_like(w) for w in weights]
    for w, g in zip(weights, gradients, strict=True):
        w.grad = g
    arrays = [t.detach().numpy().ravel() for t in (*weights, *gradients)]
    rows: list[Row] = []
    for preset, quantities in (("cheap", CHEAP), ("standard", QUANTITIES)):
        out = torch.empty(len(quantities), len(weights))
        ways: dict[str, Callable[[], object]] = {
            "numba": partial(record, TablePlan(weights, quantities), weights, out),
            "numpy, end to end (former)": partial(former_numpy, weights, gradients, quantities),
            "foreach in float64": partial(foreach_table, weights, gradients, quantities),
            "reading alone: numpy.vdot(w, w), (g, g)": partial(read, arrays),
        }
        rows += [(f"{name}, {preset}", way, t) for way, t in medians(ways, repeats).items()]
    return [*rows, (f"{name}, megabytes read", "", bytes_read(weights, gradients) / 1e6)]


def activations() -> list[Row]:
    rows: list[Row] = []
    image = torch.randn(32, 64, 32, 32)
    last = image.to(memory_format=torch.channels_last)
    for name, y in (("[64, 64]", torch.randn(64, 64)), ("[32, 64, 32, 32]", image), ("the same, channels-last", last)):
        module = nn.Identity()
        on, off = Activations({"module": module}, False), Activations({"module": module}, False)
        off.sampling = False
        hooks = list(module._forward_hooks.values())
        state = unit_statistics.UnitStatistics(module).new_state(64, y.dtype, y.device)
        ways: dict[str, Callable[[], object]] = {
            "hook, numba": partial(hooks[0], module, (y,), y),
            "hook, not sampled": partial(hooks[1], module, (y,), y),
            "torch's operations": partial(unit_statistics.join, state, y, 1),
        }
        rows += [(f"activations {name}", way, t) for way, t in medians(ways, 20 if y.numel() < 1e5 else 1).items()]
        on.detach()
        off.detach()
    modules = {str(i): nn.Linear(64, 64) for i in range(16)}
    watch = Activations(modules, False)
    for layer in modules.values():
        layer(torch.randn(64, 64))
    row = medians({"numba": partial(watch.take, torch.device("cpu"))}, 20)
    return [*rows, ("row of 16 modules", "numba", row["numba"])]


def histograms() -> list[Row]:
    x, out = torch.randn(1_000_000), torch.empty(1, COLUMNS)
    edges = np.array([0.0, *HISTOGRAM_EDGES, np.inf])
    ways: dict[str, Callable[[], object]] = {
        "numba": partial(histogram, [x], out),
        "numpy.histogram": partial(np.histogram, x.abs().numpy(), edges),
    }
    return [("histogram of 1e6 entries", way, t) for way, t in medians(ways, 1).items()]


def main() -> None:
    torch.set_num_threads(1)
    rows = [*tables("MLP", mlp(), 20), *tables("ResNet-18", resnet18(), 1), *activations(), *histograms()]
    load = os.getloadavg()[0]
    machine = f"{os.cpu_count()} cores of {processor()}, 1 thread, load {load:.0f}"
    with (Path(__file__).parent / "kernels.csv").open("w", newline="") as file:
        file.write(f"# {datetime.date.today()}, torch {torch.__version__}, {machine}; ")
        file.write(f"median of {ROUNDS} rounds, µs a call (megabytes where it says so)\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "way", "value"])
        writer.writerows([(what, way, f"{value:.4g}") for what, way, value in rows])
    for what, way, value in rows:
        print(f"{what:45s} {way:40s} {value:12.2f}")


def processor() -> str:
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return found[0].split(":")[1].strip() if found else platform.machine()


if __name__ == "__main__":
    main()
