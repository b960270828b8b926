"""How long one waits for large records and for many.

A record of 10,000 parameters and one of a million rows, their pages; `diagnose` and `compare` of 50 records,
`tolerance` of 500. Each command is a process of its own. Processor and wall seconds, memory, size.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.store.writer import Writer

BLOCK = 500


def written(path: Path, rows: int, parameters: int, strength: float = 1e-3, seed: int = 0, fails: bool = False) -> Path:
    """A record of a run that learns, or does not: sizes that fall, each with noise of its own."""
    config = {"groups": [{"class": "SGD", "lr": 0.1, "momentum": 0.0}], "seed": seed}
    static = {
        "numel": np.full(parameters, 64),
        "penalised": np.ones(parameters, bool),
        "group": np.zeros(parameters, np.int64),
    }
    attributes = {
        "gradscope_version": "0", "penalty": "l2", "baseline_loss": 2.3, "horizon": rows, "config": config,
        "capture": {},
    }  # fmt: skip
    names = [f"blocks.{n // 10}.layer{n % 10}.weight" for n in range(parameters)]
    writer = Writer(path, parameters=names, modules=[], groups=1, static=static, attributes=attributes)
    for block in _blocks(rows, parameters, strength, np.random.default_rng(seed), fails):
        writer.append(block)
    writer.close("finished")
    return path


def _blocks(
    rows: int, parameters: int, strength: float, source: np.random.Generator, fails: bool
) -> Iterator[dict[str, NDArray[Any]]]:
    noise = source.random((BLOCK, parameters), dtype=np.float32) + np.float32(0.5)
    for start in range(0, rows, BLOCK):
        step = np.arange(start, min(rows, start + BLOCK))
        share = (step / rows)[:, None].astype(np.float32)
        here = noise[: len(step)]
        gradient, weight = here * (0.02 - 0.01 * share), here * (1 - 0.5 * share)
        penalty = 2 * strength * weight
        loss = 2.3 if fails else 2.3 * np.exp(-3 * share[:, 0])
        yield {
            "step": step,
            "epoch": np.full(len(step), -1, np.int32),
            "time": 0.01 * step,
            "loss": (loss + 0.01 * here[:, 0]).astype(np.float32),
            "loss_gradient_mean_abs": gradient,
            "loss_gradient_norm": 8 * gradient,
            "penalty_gradient_mean_abs": penalty,
            "proportion": gradient / (gradient + penalty),
            "weight_mean_abs": weight,
            "weight_norm": 8 * weight,
            "strength": np.full((len(step), 1), strength, np.float32),
            "learning_rate": np.full((len(step), 1), 0.1, np.float32),
        }


def timed(*words: str) -> tuple[float, float, int]:
    """(processor seconds, wall seconds, megabytes at most) of a command."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = "import resource, sys; from gradscope_cli.main import run; code = run(sys.argv[1:]); " + (
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", peak, *words], capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(words)[:200]}: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.monotonic() - began, int(done.stderr.split()[-1]) // 1024


def cells(asked: Options) -> list[Cell]:
    """All commands on the same records, in this order."""
    return [{"what": "tolerance, 500 records"}]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """A row a command."""
    rows: list[Row] = []

    def measure(what: str, made: Path | None, *words: str) -> None:
        spent, wall, memory = timed(*words)
        size = round(made.stat().st_size / 1e6, 2) if made else None
        rows.append({"what": what, "processor_seconds": round(spent, 1), "wall_seconds": round(wall, 1),
                     "megabytes": memory, "file_megabytes": size})  # fmt: skip
        print(*rows[-1].values(), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide = written(folder / "wide.h5", 1000, 10_000)
        long = written(folder / "long.h5", 1_000_000, 8)
        page = folder / "page.html"
        for what, record in (("10,000 parameters", wide), ("1,000,000 rows", long)):
            measure(f"diagnose, {what}", record, "diagnose", str(record))
            measure(f"report, {what}", page, "report", str(record), "-o", str(page))
        measure("report of both", page, "report", str(wide), str(long), "-o", str(page))
        many = [
            written(folder / f"run-{k}.h5", 500, 8, 10.0 ** (-4 + k / 125), k, fails=k / 125 + k % 7 / 7 > 2.5)
            for k in range(500)
        ]
        fifty = [str(path) for path in many[::10]]
        measure("diagnose, 50 records", None, "diagnose", *fifty)
        measure("compare, 50 records", None, "compare", *fifty)
        measure("tolerance, 500 records", None, "tolerance", *map(str, many))
    return rows
