"""What a compiled extension would bring: python -m analyses.recorder_kernels.extension (two minutes, needs g++, ninja).

A prototype in C++ does in one call what `Meter` and `Addresses` do from Python at every step: fetch gradients, check
what every tensor is, note versions, hand addresses to the same kernel; and compare the versions at the step. The sums
stay numba's. Writes extension.csv: what preset `cheap` adds to the training thread's own time with and without it.
"""

from __future__ import annotations

import csv
import datetime
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW
from torch.utils.cpp_extension import load_inline

import gradscope
from analyses.recorder_kernels.run import processor
from analyses.recorder_overhead.step_cost import NETS
from gradscope.recorder.kernels.host_statistics import HostReader
from gradscope.recorder.meter import Meter, Taken

ROUNDS = 61

SOURCE = """
#include <torch/extension.h>
#include <torch/csrc/autograd/python_variable.h>

static bool readable(const at::Tensor& t, int64_t size) {
  return t.scalar_type() == at::kFloat && t.device().is_cpu() && t.layout() == at::kStrided && t.is_contiguous() &&
         t.numel() == size && !t.is_neg() && !t.unsafeGetTensorImpl()->is_python_dispatch() && t.data_ptr() != nullptr;
}
static int64_t mark(const at::Tensor& g) {
  return reinterpret_cast<int64_t>(g.unsafeGetTensorImpl()) + (static_cast<int64_t>(g._version()) << 48);
}
// Addresses of weights, then of gradients, and a mark a gradient; false where anything is not what it was planned as.
bool fetch(py::list weights, int64_t sizes_at, int64_t pointers_at, int64_t marks_at) {
  auto sizes = reinterpret_cast<int64_t*>(sizes_at), pointers = reinterpret_cast<int64_t*>(pointers_at);
  auto marks = reinterpret_cast<int64_t*>(marks_at);
  const Py_ssize_t n = PyList_GET_SIZE(weights.ptr());
  for (Py_ssize_t i = 0; i < n; i++) {
    const at::Tensor& w = THPVariable_Unpack(PyList_GET_ITEM(weights.ptr(), i));
    const at::Tensor& g = w.grad();
    if (!readable(w, sizes[i]) || (g.defined() && !readable(g, sizes[i]))) return false;
    pointers[i] = reinterpret_cast<int64_t>(w.data_ptr());
    pointers[n + i] = g.defined() ? reinterpret_cast<int64_t>(g.data_ptr()) : 0;
    marks[i] = g.defined() ? mark(g) : 0;
  }
  return true;
}
bool unchanged(py::list weights, int64_t marks_at) {
  auto marks = reinterpret_cast<int64_t*>(marks_at);
  const Py_ssize_t n = PyList_GET_SIZE(weights.ptr());
  for (Py_ssize_t i = 0; i < n; i++) {
    const at::Tensor& g = THPVariable_Unpack(PyList_GET_ITEM(weights.ptr(), i)).grad();
    if (marks[i] != (g.defined() ? mark(g) : 0)) return false;
  }
  return true;
}
"""


class Prototype:
    """A meter whose tensors are asked by compiled code; for float32 gradients that nobody changes before the step."""

    def __init__(self, extension: Any, meter: Meter) -> None:
        self.extension, self.meter, self.weights = extension, meter, meter.weights
        n = len(meter.weights)
        self.kept = [np.array([w.numel() for w in meter.weights]), np.zeros(2 * n, np.int64), np.zeros(n, np.int64)]
        self.sizes, self.pointers, self.marks = (int(a.ctypes.data) for a in self.kept)
        reader = HostReader(meter.weights, list(range(n)), meter.plan.quantities)
        self.reader, self.fixed = reader, (self.pointers, *reader._fixed[1:])

    def after_backward(self, row: int) -> None:
        """Measure a row."""
        meter = self.meter
        meter.fired = False
        assert meter.ring is not None and self.extension.fetch(self.weights, self.sizes, self.pointers, self.marks)
        out = meter.ring.view(meter.table, row)
        self.reader._kernel(*self.fixed, out.data_ptr(), out.stride(0))

    def take(self, row: int, scale: torch.Tensor | None) -> Taken:
        """Settle it at the step."""
        assert self.extension.unchanged(self.weights, self.marks)
        return Taken(True)


Step = Callable[[], None]


def training(
    make: Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]], path: Path | None, extension: Any
) -> Step:
    """One step of a net, bare (no ``path``), recorded, or recorded with the prototype in the place of its meter."""
    torch.manual_seed(0)
    model, x, y = make()
    optimizer = AdamW(model.parameters(), 1e-5)
    run = None if path is None else gradscope.record(model, optimizer, path, preset="cheap", on_failure="ignore")

    def step() -> None:
        out = model(x)
        loss = nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run is not None:
            run.log(loss=loss)

    if run is not None and extension is not None:
        (meter,) = run._recorder.listeners.gradients.meters
        prototype = Prototype(extension, meter)
        meter.after_backward = prototype.after_backward
        meter.take = prototype.take
    return step


def measured(net: str, extension: Any, folder: Path) -> list[tuple[str, str, float]]:
    """The microseconds a step, in turn, the training thread's own time; the lowest decile over the rounds."""
    make = NETS[net].make
    ways = {
        "bare": training(make, None, None),
        "bare again": training(make, None, None),
        "cheap": training(make, folder / f"{net}.h5", None),
        "cheap, prototype": training(make, folder / f"{net}-prototype.h5", extension),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        for _ in range(104):  # past the first hundred, in which more is recorded
            step()
    order = random.Random(0)
    for _ in range(ROUNDS):
        for name in order.sample(list(ways), len(ways)):
            start = time.thread_time()
            for _ in range(8):
                ways[name]()
            times[name].append((time.thread_time() - start) / 8 * 1e6)
    gradscope.close_recordings()
    bare = times["bare"]
    rows = []
    for name, each in times.items():
        rows.append((net, f"{name}, ratio", statistics.median(t / b for t, b in zip(each, bare, strict=True))))
        rows.append((net, f"{name}, µs", statistics.quantiles(each, n=10)[0]))
    return rows


def main() -> None:
    """Measure three nets and write the table."""
    torch.set_num_threads(1)
    extension = load_inline("gradscope_prototype", SOURCE, functions=["fetch", "unchanged"], extra_cflags=["-O3"])
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for net in ("10 tensors", "transformer", "300 tensors")
            for row in measured(net, extension, Path(folder))
        ]
    with (Path(__file__).parent / "extension.csv").open("w", newline="") as file:
        file.write(f"# {datetime.date.today()}, torch {torch.__version__}, {os.cpu_count()} cores of {processor()}, ")
        file.write(f"1 thread, load {os.getloadavg()[0]:.1f}; {ROUNDS} rounds: median ratio, lowest decile of times\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "way", "value"])
        writer.writerows([(what, way, f"{value:.4g}") for what, way, value in rows])
    for what, way, value in rows:
        print(f"{what:14s} {way:30s} {value:10.3f}")


if __name__ == "__main__":
    main()
