"""What the start-ups of a search's trials cost.

One search of a small script, its trials forked from a warm process and each in an interpreter of its own, in turn.
The same seed, so the same trials. Processor seconds of all processes, wall seconds, and the
seconds from the first row of each trial's record to its last, added up: what the trainings alone took.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.store.record import Record

ROUNDS = 2
PR_SET_CHILD_SUBREAPER = 36
SCRIPT = """
import os
import torch
from torch import nn
import gradscope

torch.manual_seed(int(os.environ["GRADSCOPE_SEED"]))
torch.set_num_threads(1)
width, batch = {width}, {batch}
x = torch.randn(2048, 64)
y = (x[:, :10] + 0.3 * torch.randn(2048, 10)).argmax(1)
model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
with gradscope.record(model, optimizer, "run.h5", horizon=600) as run:
    for _ in range(600):
        those = torch.randint(0, 2048, (batch,))
        loss = nn.functional.cross_entropy(model(x[those]), y[those])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
"""


def searched(
    folder: Path, trials: int, warm: bool, workers: int, width: int, batch: int
) -> tuple[float, float, int, int, float]:
    """(processor seconds, wall seconds, trials, steps, seconds of training) of a search.

    Its trials are forked (``warm``), or start by themselves.
    """
    script = folder / "train.py"
    script.write_text(SCRIPT.format(width=width, batch=batch), encoding="utf-8")
    python = [sys.executable] if warm else [sys.executable, "-B"]  # an option asks for an interpreter of its own
    words = ["search", "--no-predict", "--low", "1e-3", "--high", "1", "--workers", str(workers), "--max-trials",
             str(trials), "--precision", "0.01", "--json", "--out", str(folder / "search"), "--", *python,
             str(script)]  # fmt: skip
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "gradscope", *words], capture_output=True, text=True, check=True)
    wall = time.monotonic() - began
    while True:  # what outlived the search
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    training = 0.0
    for trial in told["runs"]:
        with Record(trial["path"]) as record:
            at = record.column("time")
        training += float(at[-1] - at[0])
    return spent, wall, told["trials"], told["steps_run"], training


def cells(asked: Options) -> list[Cell]:
    """Forked and started, so many at a time, in trainings of one size."""
    size = {"workers": asked.workers, "width": asked.more["width"], "batch": asked.more["batch"]}
    return [{"how": how, **size} for how in ("forked", "started")]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """A row a search; all are the same."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    found: list[Row] = []
    for _ in range(asked.more["rounds"] or ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            warm = cell["how"] == "forked"
            size = cell["workers"], cell["width"], cell["batch"]
            spent, wall, trials, steps, training = searched(Path(folder), asked.more["trials"], warm, *size)
        told = {"processor_seconds": spent, "wall_seconds": wall, "training_seconds": training}
        found.append({"load": round(os.getloadavg()[0], 1), "trials": trials, "steps": steps,
                      **{name: round(value, 1) for name, value in told.items()}})  # fmt: skip
        print(cell, found[-1], flush=True)
    return found
