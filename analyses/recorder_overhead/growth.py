"""How the cost of recording grows: with parameters, with tensors, with steps.

    python -m analyses.recorder_overhead.growth [--device cpu|cuda] [--steps 1000000] [-o growth.csv]

The step is a backward pass of (Σw)/2 over all tensors and an SGD step, so that hardly anything but memory traffic is
in it: the worst case for a recorder. A figure is the median over interleaved rounds of the time with
`standard` over the time without. The long run trains a tiny net for a million steps and looks at the memory of the
process.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradscope
from analyses.recorder_overhead.run import machine, timed

HERE = Path(__file__).parent
SIZES = {"cpu": [10**4, 10**5, 10**6, 10**7, 10**8], "cuda": [10**4, 10**5, 10**6, 10**7, 10**8, 10**9]}
TENSORS = [10, 100, 1000, 5000]


def stepper(model: nn.ParameterList, device: torch.device) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, weight_decay=1e-4)

    def step() -> None:
        loss = torch.stack([w.sum() for w in model]).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, optimizer


def ratio(entries: int, tensors: int, device: torch.device, rounds: int, folder: Path) -> dict[str, Any]:
    """Time with recording over time without, for this many entries in this many tensors."""
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
    for _ in range(rounds):
        for way in times:
            times[way].append(timed(steps[way], count, device))
    held = runs[0]._recorder.buffer.bytes
    for run in runs:
        run.close()
    found = statistics.median(a / b for a, b in zip(times["standard"], times["bare"], strict=True))
    more = statistics.median(a - b for a, b in zip(times["standard"], times["bare"], strict=True))
    return {
        "entries": entries, "tensors": tensors, "ratio": round(found, 3), "more_us": round(more * 1e6, 1),
        "bare_us": round(statistics.median(times["bare"]) * 1e6, 1), "ring_bytes": held,
    }  # fmt: skip


def resident() -> float:
    """MiB of memory of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def long_run(steps: int, folder: Path) -> list[dict[str, Any]]:
    """Memory and file size on the way through very many steps."""
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 8), torch.randint(0, 2, (16,))
    path, found, start = folder / "long.h5", [], time.perf_counter()
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


def write(path: Path, lines: list[dict[str, Any]], device: torch.device) -> None:
    with path.open("w", newline="") as file:
        file.write(f"# python -m analyses.recorder_overhead.growth --device {device.type}; {machine(device)}\n")
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [ratio(entries, 10, device, options.rounds, folder) for entries in SIZES[device.type]]
        lines += [ratio(10**6, tensors, device, options.rounds, folder) for tensors in TENSORS[1:]]
        for line in lines:
            print(line, flush=True)
        write(options.out / f"growth-{device.type}.csv", lines, device)
        if options.steps:
            write(options.out / f"long-{device.type}.csv", long_run(options.steps, folder), device)


if __name__ == "__main__":
    main()
