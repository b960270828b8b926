"""What a compiled extension would bring (two minutes; needs g++ and ninja).

A prototype in C++ does in one call what `Meter` and `Addresses` do from Python at every step: fetch gradients, check
what every tensor is, note versions, hand addresses to the same kernel; and compare the versions at the step. The sums
stay numba's. It is no meter: it knows float32 gradients alone, that nobody changes before the step.
"""

from __future__ import annotations

import random
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
from analyses.benchmarks.step_cost import NETS, lines
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.recorder.kernels.host_statistics import HostReader
from gradscope.recorder.meter import Meter, Taken

ROUNDS = 61
ASKED = ("10 tensors", "transformer", "300 tensors")
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
        meter.after_backward = prototype.after_backward  # type: ignore[method-assign]
        meter.take = prototype.take  # type: ignore[method-assign]
    return step


def cells(asked: Options) -> list[Cell]:
    """A net each, as far as it is asked for."""
    wanted = asked.more["nets"]
    return [{"net": net} for net in ASKED if not wanted or any(part in net for part in wanted)]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """Preset `cheap` with the meter and with the prototype, the training thread's own time, ways in turn."""
    torch.set_num_threads(1)
    extension = load_inline("gradscope_prototype", SOURCE, functions=["fetch", "unchanged"], extra_cflags=["-O3"])
    make, order = NETS[cell["net"]].make, random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "bare": training(make, None, None),
            "bare again": training(make, None, None),
            "cheap": training(make, Path(folder) / "meter.h5", None),
            "cheap, prototype": training(make, Path(folder) / "prototype.h5", extension),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for step in ways.values():
            for _ in range(104):  # past the first hundred, in which more is recorded
                step()
        for _ in range(asked.more["rounds"] or ROUNDS):
            for name in order.sample(list(ways), len(ways)):
                start = time.thread_time()
                for _ in range(8):
                    ways[name]()
                times[name].append((time.thread_time() - start) / 8)
        gradscope.close_recordings()
    return lines(times)
