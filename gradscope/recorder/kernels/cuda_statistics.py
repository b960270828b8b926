"""Compute the table of float32, bfloat16 and float16 parameters on a CUDA device: two launches of Triton a step.

All buffers stay where they are, so that a captured CUDA graph can replay the launches. Addresses are sent to the device
only when they changed; the pinned memory they are sent from belongs to torch's own allocator, which does not hand it
out again before the copy is done. A capture must not ask for such memory, and what it copies is copied again by every
replay: each call inside one takes a pair of buffers of its own from a few that are ready.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from gradscope.recorder.kernels import cuda_kernels
from gradscope.recorder.kernels.addresses import Addresses
from gradscope.recorder.kernels.statistics import QUANTITIES
from gradscope.recorder.memory import CPU, full, on_device, zeros

#: Calls inside captures that are ready at any time; preset `full` makes three of one reader in a step.
SPARE = 8
DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class CudaReader:
    """Reader that fills ``columns`` of a table on the parameters' device. Compiled and tried once when it is made."""

    def __init__(self, weights: Sequence[Tensor], columns: Sequence[int], quantities: Sequence[str]) -> None:
        self._addresses = Addresses(weights)
        self._dtype = DTYPES[weights[0].dtype]
        self._device = weights[0].device
        self._count = len(weights)
        sizes = on_device(self._addresses.sizes, CPU, torch.int64)
        chunk = cuda_kernels.CHUNK.value
        chunks = (sizes + chunk - 1) // chunk
        first = torch.cat((zeros((1,), CPU, torch.int64), chunks.cumsum(0)))
        owner = torch.repeat_interleave(torch.arange(self._count, dtype=torch.int64, device=CPU), chunks)
        self._chunks = int(first[-1])
        start = (torch.arange(self._chunks, dtype=torch.int64, device=CPU) - first[owner]) * chunk
        places = [quantities.index(name) if name in quantities else -1 for name in QUANTITIES]
        rows, at = on_device(places, CPU, torch.int64), on_device(columns, CPU, torch.int64)
        tables = (sizes, owner, start, first, rows, at)
        self._sizes, self._owner, self._start, self._first, self._rows, self._columns = (
            table.to(self._device) for table in tables
        )
        self._partials = zeros((len(QUANTITIES), self._chunks), self._device, torch.float64)
        self._pointers = zeros((2 * self._count,), self._device, torch.int64)
        self._sent: list[int] = []
        self._spare: list[tuple[Tensor, Tensor]] = []  # host and device, for captures to come
        self._captured: list[tuple[Tensor, Tensor]] = []  # what captured graphs copy at every replay
        trial = zeros((len(quantities), max(columns) + 1), self._device)
        self(weights, weights, trial)
        self(weights, [None] * self._count, trial)

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], out: Tensor) -> Sequence[int]:
        """Write the columns into ``out``; return the indices of pairs that could not be read."""
        pointers, odd = self._addresses.read(weights, gradients)
        at = self._on_device(pointers)
        if at is None:
            return range(self._count)
        aligned = not any(address % 16 for address in pointers)
        shape = (self._count, self._chunks)
        cuda_kernels.read_chunks[(self._chunks,)](
            at, self._sizes, self._owner, self._start, self._partials, *shape, self._dtype, aligned,
            enable_fp_fusion=True,
        )  # fmt: skip
        cuda_kernels.join_chunks[(self._count, len(QUANTITIES))](
            at, self._partials, self._first, self._rows, self._columns, out, *shape, out.stride(0), 128,
            enable_fp_fusion=True,
        )  # fmt: skip
        return odd

    def _on_device(self, pointers: list[int]) -> Tensor | None:
        """Copy the addresses to the device; None inside a capture that has used up the buffers that were ready."""
        cuda = self._device.type == "cuda"
        if cuda and torch.cuda.is_current_stream_capturing():
            if not self._spare:
                return None
            staged, there = pair = self._spare.pop()
            staged.numpy()[:] = pointers
            there.copy_(staged, non_blocking=True)
            self._captured.append(pair)
            return there
        if pointers != self._sent:
            staged = torch.tensor(pointers, dtype=torch.int64, device=CPU, pin_memory=cuda)
            self._pointers.copy_(staged, non_blocking=True)
            self._sent = pointers
        while cuda and len(self._spare) < SPARE:
            host = full((len(pointers),), 0, CPU, torch.int64, pinned=True)
            self._spare.append((host, torch.empty_like(self._pointers)))
        return self._pointers
