"""What the recorder's kernels cost on the host: median microseconds of each way, in turn with the others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.recorder.kernels import unit_statistics
from gradscope.recorder.kernels.magnitude_bins import COLUMNS, HISTOGRAM_EDGES, histogram
from gradscope.recorder.kernels.statistics import QUANTITIES, foreach_table
from gradscope.recorder.kernels.table import TablePlan, bytes_read
from gradscope.recorder.listeners.activations import Activations

CHEAP = ("gradient_l1", "gradient_norm", "weight_l1", "weight_norm")
ROUNDS, MANY = 101, 20  # rounds; calls in a round, of what takes microseconds
Ways = dict[str, Callable[[], object]]


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


def medians(ways: Ways, repeats: int) -> dict[str, float]:
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


def filled(model: nn.Module) -> tuple[list[nn.Parameter], list[Tensor]]:
    """Weights and their gradients."""
    weights = list(model.parameters())
    for w in weights:
        w.grad = torch.randn_like(w)
    return weights, [w.grad for w in weights if w.grad is not None]


def table(make: Callable[[], nn.Module], quantities: Sequence[str], repeats: int) -> dict[str, float]:
    """A row of all parameters."""
    weights, gradients = filled(make())
    arrays = [t.detach().numpy().ravel() for t in (*weights, *gradients)]
    out = torch.empty(len(quantities), len(weights))
    ways: Ways = {
        "numba": partial(record, TablePlan(weights, quantities), weights, out),
        "numpy, end to end (former)": partial(former_numpy, weights, gradients, quantities),
        "foreach in float64": partial(foreach_table, weights, gradients, quantities, torch.device("cpu")),
        "reading alone: numpy.vdot(w, w), (g, g)": partial(read, arrays),
    }
    return medians(ways, repeats)


def megabytes(make: Callable[[], nn.Module]) -> dict[str, float]:
    """What a row reads."""
    return {"": bytes_read(*filled(make())) / 1e6}


def activations(shape: tuple[int, ...], repeats: int, last: bool = False) -> dict[str, float]:
    """The hook of one module; ``last``: channels last in memory."""
    y = torch.randn(shape)
    y = y.to(memory_format=torch.channels_last) if last else y
    module = nn.Identity()
    on, off = Activations({"module": module}, False), Activations({"module": module}, False)
    off.sampling = False
    hooks = list(module._forward_hooks.values())
    state = unit_statistics.UnitStatistics(module).new_state(64, y.dtype, y.device)
    ways: Ways = {
        "hook, numba": partial(hooks[0], module, (y,), y),
        "hook, not sampled": partial(hooks[1], module, (y,), y),
        "torch's operations": partial(unit_statistics.join, state, y, 1),
    }
    found = medians(ways, repeats)
    on.detach()
    off.detach()
    return found


def row_of_modules() -> dict[str, float]:
    """All that the hooks have gathered, taken."""
    modules = {str(i): nn.Linear(64, 64) for i in range(16)}
    watch = Activations(modules, False)
    for layer in modules.values():
        layer(torch.randn(64, 64))
    return medians({"numba": partial(watch.take, torch.device("cpu"))}, MANY)


def histograms() -> dict[str, float]:
    """Of magnitudes."""
    x, out = torch.randn(1_000_000), torch.empty(1, COLUMNS)
    edges = np.array([0.0, *HISTOGRAM_EDGES, np.inf])
    ways: Ways = {
        "numba": partial(histogram, [x], out),
        "numpy.histogram": partial(np.histogram, x.abs().numpy(), edges),
    }
    return medians(ways, 1)


IMAGE = (32, 64, 32, 32)
#: The table's first column, and what measures it, in microseconds but where it says megabytes.
WHAT: dict[str, Callable[[], dict[str, float]]] = {
    "MLP, cheap": partial(table, mlp, CHEAP, MANY),
    "MLP, standard": partial(table, mlp, QUANTITIES, MANY),
    "MLP, megabytes read": partial(megabytes, mlp),
    "ResNet-18, cheap": partial(table, resnet18, CHEAP, 1),
    "ResNet-18, standard": partial(table, resnet18, QUANTITIES, 1),
    "ResNet-18, megabytes read": partial(megabytes, resnet18),
    "activations [64, 64]": partial(activations, (64, 64), MANY),
    "activations [32, 64, 32, 32]": partial(activations, IMAGE, 1),
    "activations the same, channels-last": partial(activations, IMAGE, 1, last=True),
    "row of 16 modules": row_of_modules,
    "histogram of 1e6 entries": histograms,
}


def cells(asked: Options) -> list[Cell]:
    """One a line of `WHAT`."""
    return [{"what": what} for what in WHAT]


def measure(cell: Cell, asked: Options) -> list[Row]:
    """A row a way."""
    torch.set_num_threads(1)
    return [{"way": way, "value": f"{value:.4g}"} for way, value in WHAT[cell["what"]]().items()]
