"""What recording costs a training step, beside other ways to watch one.

Every way has a net and an optimizer of its own. They take turns within a round, some steps each, in an order that
changes from round to round; a figure is the median over rounds of (time of this way)/(bare time in the same
round). "bare again" is the bare loop once more: how far its figure lies from 1 is what the machine adds.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from analyses.benchmarks import cases
from analyses.benchmarks.cases import Case
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.types import InputError

ROUNDS = 30


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


def rows(found: dict[str, list[float]]) -> list[Row]:
    """A line a way: the median ratio to bare and its quartiles."""
    lines = []
    for way, times in found.items():
        ratios = [t / b for t, b in zip(times, found["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        lines.append({
            "way": way, "ratio": round(middle, 4), "lower_quartile": round(low, 4), "upper_quartile": round(high, 4),
            "bare_ms": round(statistics.median(found["bare"]) * 1e3, 4), "rounds": len(times),
        })  # fmt: skip
    return lines


def cells(asked: Options) -> list[Cell]:
    """A net of the device each, as far as it is asked for."""
    known, wanted = list(cases.CUDA if asked.device.startswith("cuda") else cases.CPU), asked.more["nets"]
    chosen = [name for name in known if not wanted or any(part in name for part in wanted)]
    if not chosen:
        raise InputError(f"--nets is {' '.join(wanted)}; expected parts of: {'; '.join(known)}")
    return [{"case": name} for name in chosen]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """One net under all ways that are here and asked for."""
    device, name = torch.device(asked.device), cell["case"]
    torch.backends.cuda.matmul.allow_tf32 = True
    case = (cases.CUDA if device.type == "cuda" else cases.CPU)[name]
    wanted = ["bare", *(asked.more["ways"] or cases.WATCHERS)]
    here = [way for way in cases.WATCHERS if way in wanted and (way != cases.COCKPIT or "MLP" in name)]
    for way in (way for way in here if not cases.present(way)):
        print(f"not installed, left out: {way}")
    ways = [way for way in here if cases.present(way)]
    found = rows(measure(case, ways, device, asked.more["rounds"] or ROUNDS))
    for line in found:
        print(f"{name:40} {line['way']:28} {line['ratio']:8.3f}  ({line['bare_ms']:.3f} ms bare)", flush=True)
    return found
