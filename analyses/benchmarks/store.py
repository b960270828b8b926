"""What recording to disk costs (about five minutes on two cores).

Writing: µs a step and bytes a value, by store and window. Reading: one variable of 10⁶ rows. Training: a step whose
rows go to disk against one whose rows end in memory.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import gradscope
from analyses.benchmarks.peers import PEERS, Peer, Rows
from analyses.benchmarks.peers import gradscope as ours
from analyses.benchmarks.toggled import Trained, toggled
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.store.writer import Writer

ROUNDS = 3
STEPS, COPIES = 4096, 4
READ_ROWS = 1_000_000
#: How one variable is read whole: ours, and h5py itself, which does nothing but inflate the same chunks.
READERS = {
    "gradscope": ("open_run(sys.argv[2]).close()", 'with open_run(sys.argv[1]) as d: d["weight_norm"].values'),
    "plain h5py": ("h5py.File(sys.argv[2]).close()", 'with h5py.File(sys.argv[1]) as f: f["weight_norm"][...]'),
}
READ = """
import re, sys, time
from pathlib import Path
import h5py
from gradscope.store.reader import open_run
{once}  # loads what is loaded on first use
began = time.perf_counter()
{whole}
seconds = time.perf_counter() - began
# Not ru_maxrss: a process inherits that of the one that started it.
print(seconds, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def real_rows(folder: Path) -> dict[str, Any]:
    """The variables of a real record along step, without the sampled ones of modules."""
    with Trained(folder / "real.h5") as trained:
        for _ in range(STEPS):
            trained.step()
    with gradscope.open_run(folder / "real.h5") as dataset:
        names = [n for n, v in dataset.variables.items() if v.dims[:1] == ("step",) and "module" not in v.dims]
        rows = {str(name): dataset[name].values for name in names}
    rows["skipped"] = rows["skipped"].astype(np.int8)
    return rows


def blocks(rows: Rows, window: int, count: int) -> Iterator[Rows]:
    """``count`` rows in windows; the real ones again and again, with steps that go on."""
    for start in range(0, count, window):
        at = start % STEPS
        block = {name: values[at : at + window] for name, values in rows.items()}
        yield block | {"step": np.arange(start, start + window)}


def written(peer: Peer, rows: Rows, window: int, count: int, disk: Path) -> tuple[float, float, float, int]:
    """(µs a step, µs of the processor a step, bytes a value, files)."""
    with tempfile.TemporaryDirectory(dir=disk) as name:
        folder = Path(name)
        ready = list(blocks(rows, window, count))
        began, busy = time.perf_counter(), time.process_time()
        peer(folder, iter(ready))
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        files = [f for f in folder.rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files)
    values = count * sum(int(np.prod(v.shape[1:])) for v in rows.values())
    return seconds / count * 1e6, busy / count * 1e6, size / values, len(files)


def writing_cells(asked: Options) -> list[Cell]:
    """All stores in turn, the first row being ours."""
    return [{"store": "gradscope, gzip", "window": 256}]


def writing(cell: Cell, asked: Options) -> list[Row]:
    """Every store at window 256, ours at four windows; interleaved, medians."""
    with tempfile.TemporaryDirectory() as folder:
        rows = real_rows(Path(folder))
    cases = [(name, peer, 256, share) for name, (peer, share) in PEERS.items()]
    cases += [(f"gradscope, gzip, window {w}", ours(), w, 1.0) for w in (16, 64, 1024)]
    seen: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name, *_ in cases}
    for _ in range(asked.more["rounds"] or ROUNDS):
        for name, peer, window, share in cases:
            seen[name].append(written(peer, rows, window, int(STEPS * COPIES * share), asked.out))
    table: list[Row] = []
    for name, _, window, _ in cases:
        micro = statistics.median(s[0] for s in seen[name])
        cpu = statistics.median(s[1] for s in seen[name])
        table.append({"store": name, "window": window, "us_per_step": round(micro, 1), "cpu_us_per_step": round(cpu, 1),
                      "bytes_per_value": round(seen[name][0][2], 3), "files": seen[name][0][3]})  # fmt: skip
    base: float = table[0]["us_per_step"]
    return [row | {"ratio_to_ours": round(row["us_per_step"] / base, 2)} for row in table]


def _forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading_cells(asked: Options) -> list[Cell]:
    """Both states from one file, in this order."""
    return [{"state": "warm"}]


def reading(cell: Cell, asked: Options) -> list[Row]:
    """One variable of 10⁶ rows and 50 parameters, in a fresh process, cold and warm."""
    table: list[Row] = []
    with tempfile.TemporaryDirectory(dir=asked.out) as name:
        path = Path(name) / "run.h5"
        generator = np.random.default_rng(0)
        base = np.exp(np.cumsum(generator.normal(0, 0.01, (10240, 50)), 0)).astype(np.float32)

        def long() -> Iterator[Rows]:
            for start in range(0, READ_ROWS, 10240):
                count = min(10240, READ_ROWS - start)
                varied = base[:count] * np.float32(1 + start * 1e-7)
                yield {"step": np.arange(start, start + count), "weight_norm": varied, "proportion": varied}

        ours()(Path(name), long())
        small = Path(name) / "small" / "run.h5"
        small.parent.mkdir()
        ours()(small.parent, iter([next(long())]))
        for state in ("cold", "warm"):
            found: dict[str, list[tuple[float, float]]] = {reader: [] for reader in READERS}
            for _, (reader, (once, whole)) in itertools.product(range(asked.more["rounds"] or ROUNDS), READERS.items()):
                if state == "cold":
                    _forget(path)
                program = READ.format(once=once, whole=whole)
                done = subprocess.run(
                    [sys.executable, "-c", program, str(path), str(small)], capture_output=True, text=True, check=True
                )
                seconds, megabytes = map(float, done.stdout.split())
                found[reader].append((seconds, megabytes))
            ours_s, plain_s = ([f[0] for f in found[reader]] for reader in READERS)
            table.append({"state": state, "rows": READ_ROWS, "parameters": 50,
                          "seconds": round(statistics.median(ours_s), 3),
                          "plain_h5py_seconds": round(statistics.median(plain_s), 3),
                          "ratio": round(statistics.median(a / b for a, b in zip(ours_s, plain_s, strict=True)), 2),
                          "process_megabytes": round(max(f[1] for f in found["gradscope"]))})  # fmt: skip
    return table


def training(cell: Cell, asked: Options) -> list[Row]:
    """With a writer that takes the rows, and with one that lets them fall."""
    dropped = functools.partial(mock.patch.multiple, Writer, append=lambda *_: None, tick=lambda _: None)
    with tempfile.TemporaryDirectory(dir=asked.out) as name:
        return toggled(Path(name) / "run.h5", dropped, 10 * (asked.more["rounds"] or ROUNDS))
