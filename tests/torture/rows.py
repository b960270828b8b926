"""So many rows through `record` and `log`, as fast as a model of one weight trains.

    python -m tests.torture.rows ROWS PATH

Prints a line of JSON for every 50,000 rows: processor and wall time a step, memory, file size; then reads it back.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradscope

EVERY = 50_000


def resident() -> int:
    """Megabytes of memory in use."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=1e-4, foreach=False)
    x, y = torch.randn(1, 1), torch.randn(1, 1)
    settings = {"preset": "cheap", "horizon": given.rows, "on_failure": "ignore"}
    with gradscope.record(model, optimizer, given.path, **settings) as run:
        cpu, wall = time.process_time(), time.monotonic()
        for n in range(1, given.rows + 1):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            run.log(loss=loss, seen=float(n))
            if n % EVERY == 0:
                spent = [round((now - then) / EVERY * 1e6) for now, then in
                         ((time.process_time(), cpu), (time.monotonic(), wall))]  # fmt: skip
                size = round(given.path.stat().st_size / 2**20, 1)
                told = {"rows": n, "cpu_us": spent[0], "wall_us": spent[1], "memory_mb": resident(), "file_mb": size}
                print(json.dumps(told), flush=True)
                cpu, wall = time.process_time(), time.monotonic()
    with gradscope.open_run(given.path) as dataset:
        np.testing.assert_array_equal(dataset["step"].values, np.arange(given.rows))
        np.testing.assert_array_equal(dataset["seen"].values, np.arange(1, given.rows + 1))


if __name__ == "__main__":
    main()
