"""What recording costs a training step, beside other ways to watch one.

    python -m analyses.recorder_overhead.run [--device cpu|cuda] [--rounds 30] [--only NAME ...] [-o overhead.csv]

Every way has a net and an optimizer of its own. They take turns within a round, some steps each, in an order that
changes from round to round; a figure is the median over rounds of (time of this way)/(bare time in the same
round). "bare again" is the bare loop once more: how far its figure lies from 1 is what the machine adds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analyses.recorder_overhead import cases
from analyses.recorder_overhead.cases import Case

HERE = Path(__file__).parent


@contextlib.contextmanager
def stepper(case: Case, way: str, device: torch.device, folder: Path) -> Iterator[Callable[[], None]]:
    """A function that trains one step under this way of watching."""
    torch.manual_seed(0)
    if way == cases.COCKPIT:
        yield cases.cockpit_step(case)
        return
    model = case.model().to(device)
    optimizer = case.optimizer(model)
    x, y = (t.to(device) for t in case.batch())
    with cases.WATCHERS[way](model, optimizer, folder) as tell:

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=case.autocast):
                loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tell(loss)

        yield step


def timed(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Seconds a step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def measure(case: Case, ways: list[str], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds a step in each round, by way."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    order = random.Random(0)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        steps = {way: stack.enter_context(stepper(case, way, device, folder)) for way in ways}
        timed(steps["bare"], case.steps, device)
        first = {way: timed(steps[way], 3, device) for way in ways}  # warm, and a first impression
        bare = timed(steps["bare"], case.steps, device)
        for _ in range(rounds):
            for way in order.sample(ways, len(ways)):
                # A way ten times slower gets fewer steps, or the study would be about it alone.
                slow = min(case.steps, max(1, int(case.steps * 10 * bare / first[way])))
                found[way].append(timed(steps[way], slow, device))
    return found


def rows(name: str, found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A line a way: the median ratio to bare and its quartiles."""
    lines = []
    for way, times in found.items():
        ratios = [t / b for t, b in zip(times, found["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        lines.append(
            {
                "case": name, "way": way, "ratio": round(middle, 4), "lower_quartile": round(low, 4),
                "upper_quartile": round(high, 4), "bare_ms": round(statistics.median(found["bare"]) * 1e3, 4),
                "rounds": len(times),
            }
        )  # fmt: skip
    return lines


def machine(device: torch.device) -> str:
    """For the head of the results."""
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        names = [line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith("model name")]
        what = f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return f"{what}; torch {torch.__version__}; {datetime.date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="*", help="parts of names of cases")
    parser.add_argument("--ways", nargs="*", choices=tuple(cases.WATCHERS), help="bare is always among them")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    chosen = cases.CUDA if device.type == "cuda" else cases.CPU
    ways = [w for w in cases.WATCHERS if cases.present(w) and (not options.ways or w in ["bare", *options.ways])]
    for missing in set(cases.WATCHERS) - {w for w in cases.WATCHERS if cases.present(w)}:
        print(f"not installed, left out: {missing}")
    if options.only and not any(part in name for part in options.only for name in chosen):
        parser.error(f"--only is {' '.join(options.only)}; expected parts of: {'; '.join(chosen)}")
    out = options.out or HERE / f"overhead-{device.type}.csv"
    lines: list[dict[str, Any]] = []
    for name, case in chosen.items():
        if options.only and not any(part in name for part in options.only):
            continue
        here = [w for w in ways if w != cases.COCKPIT or "MLP" in name]
        lines += rows(name, measure(case, here, device, options.rounds))
        with out.open("w", newline="") as file:
            file.write(f"# python -m analyses.recorder_overhead.run --device {device.type}; {machine(device)}\n")
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)
        for line in lines[-len(here) :]:
            print(
                f"{line['case']:40} {line['way']:28} {line['ratio']:8.3f}  ({line['bare_ms']:.3f} ms bare)", flush=True
            )


if __name__ == "__main__":
    main()
