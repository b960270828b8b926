"""How the cost of recording grows: with parameters, with tensors, with steps.

The step is a backward pass of (Σw)/2 over all tensors and an SGD step, so that hardly anything but memory traffic is
in it: the worst case for a recorder. A figure is the median over interleaved rounds of the time with
`standard` over the time without. The long run trains a tiny net for a million steps and looks at the memory of the
process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import gradscope
from analyses.benchmarks.overhead import timed
from analyses.common.results import Cell, Row
from analyses.common.study import Options

SIZES = {"cpu": [10**4, 10**5, 10**6, 10**7, 10**8], "cuda": [10**4, 10**5, 10**6, 10**7, 10**8, 10**9]}
TENSORS = [100, 1000, 5000]  # of 10⁶ entries; of the sizes 10
STEPS, ROUNDS = 1_000_000, 11


def stepper(model: nn.ParameterList, device: torch.device) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, weight_decay=1e-4)

    def step() -> None:
        loss = torch.stack([w.sum() for w in model]).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, optimizer


def cells(asked: Options) -> list[Cell]:
    """By entries, then by tensors."""
    sizes = [(entries, 10) for entries in SIZES[torch.device(asked.device).type]]
    return [{"entries": entries, "tensors": tensors} for entries, tensors in (*sizes, *((10**6, t) for t in TENSORS))]


def ratio(cell: Cell, asked: Options) -> Row:
    """Time with recording over time without, for so many entries in so many tensors."""
    with tempfile.TemporaryDirectory() as folder:
        return _ratio(cell["entries"], cell["tensors"], asked, Path(folder))


def _ratio(entries: int, tensors: int, asked: Options, folder: Path) -> Row:
    device = torch.device(asked.device)
    times: dict[str, list[float]] = {"bare": [], "standard": []}
    steps = {}
    runs = []
    for way in times:
        each = max(1, entries // tensors)
        model = nn.ParameterList([nn.Parameter(torch.randn(each, device=device)) for _ in range(tensors)])
        steps[way], optimizer = stepper(model, device)
        if way != "bare":
            path = folder / f"{entries}-{tensors}.h5"
            runs.append(gradscope.record(model, optimizer, path, on_failure="ignore"))
    for way in times:
        timed(steps[way], 3, device)
    count = max(2, min(100, int(0.2 / timed(steps["bare"], 2, device))))
    for _ in range(asked.more["rounds"] or ROUNDS):
        for way in times:
            times[way].append(timed(steps[way], count, device))
    held = runs[0]._recorder.buffer.bytes
    for run in runs:
        run.close()
    found = statistics.median(a / b for a, b in zip(times["standard"], times["bare"], strict=True))
    more = statistics.median(a - b for a, b in zip(times["standard"], times["bare"], strict=True))
    return {
        "ratio": round(found, 3), "more_us": round(more * 1e6, 1),
        "bare_us": round(statistics.median(times["bare"]) * 1e6, 1), "ring_bytes": held,
    }  # fmt: skip


def resident() -> float:
    """MiB of memory of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def long_cells(asked: Options) -> list[Cell]:
    """One run, whose rows are ten of its steps."""
    return [{"step": STEPS}]


def long_run(cell: Cell, asked: Options) -> list[Row]:
    """Memory and file size on the way through very many steps."""
    with tempfile.TemporaryDirectory() as folder:
        return _long_run(cell["step"], Path(folder))


def _long_run(steps: int, folder: Path) -> list[Row]:
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 8), torch.randint(0, 2, (16,))
    path, start = folder / "long.h5", time.perf_counter()
    found: list[Row] = []
    with gradscope.record(model, optimizer, path, preset="cheap", on_failure="ignore") as run:
        for step in range(steps + 1):
            if step and step % max(1, steps // 10) == 0:
                size = path.stat().st_size / step
                line = {"step": step, "resident_mib": round(resident(), 1), "file_bytes_per_step": round(size, 1)}
                print(line, round(time.perf_counter() - start), "s", flush=True)
                found.append(line)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return found
