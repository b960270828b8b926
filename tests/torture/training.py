"""SIGKILL of a training process at random moments: nothing older than a second is lost."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

#: What a commit may be late by on a machine that is busy with other things, in seconds.
GRACE = 0.5


def train_for_ever(path: Path, note: Callable[[int], None]) -> None:
    import torch

    import gradscope
    from tests.helpers.loops import batches, mlp

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
    data = list(batches(50))
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        step = 0
        while True:
            x, y = data[step % 50]
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            if step % 100 == 99:
                run.epoch(step // 100, accuracy=0.5)
            note(step)
            step += 1


def kill(path: Path, delay: float) -> tuple[int, int]:
    """Train in a fork, kill it after ``delay`` seconds of training: (steps older than a second, steps in all)."""
    times = mmap.mmap(-1, 8 * (1 << 20))
    child = os.fork()
    if child == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                train_for_ever(path, lambda step: times.__setitem__(
                    slice(8 * step, 8 * step + 8), struct.pack("<d", time.monotonic())))  # fmt: skip
            finally:
                os._exit(1)
    while times[:8] == bytes(8):
        time.sleep(0.01)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the training ended by itself"
    time.sleep(delay)
    now = time.monotonic()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = np.frombuffer(times[:], dtype="<f8")
    done = done[done > 0]
    return int((done <= now - 1 - GRACE).sum()), len(done)


def check(path: Path, old: int) -> int:
    """The rows found; everything old is there, finite, and what it should be."""
    from gradscope.store.reader import open_run

    with open_run(path) as dataset:
        rows = dataset.sizes["step"]
        assert rows >= old, f"{rows} rows of {old} that were more than a second old"
        assert dataset["step"].values.tolist() == list(range(rows))
        for name in ("weight_norm", "loss", "proportion"):
            if rows:
                assert np.isfinite(dataset[name].values).all(), name
    return int(rows)


def random_delays(count: int, longest: float, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [source.uniform(0, longest) for _ in range(count)]
