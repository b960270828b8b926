"""Compute the table of float32 parameters on the CPU, by the kernels of `gradscope.recorder.kernels.host_kernels`.

For small models the cost is one of calls, not of bytes: one call reads all parameters.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gradscope.recorder.kernels import host_kernels
from gradscope.recorder.kernels.addresses import Addresses
from gradscope.recorder.kernels.statistics import QUANTITIES

_SUMS = {"gradient_l1", "gradient_norm", "weight_l1", "weight_norm"}


class HostReader:
    """Reader that fills ``columns`` of a table on the CPU. Nothing is allocated on the way but a list of addresses."""

    def __init__(self, weights: Sequence[Tensor], columns: Sequence[int], quantities: Sequence[str]) -> None:
        self._addresses = Addresses(weights)
        self._kernel = host_kernels.table_of_sums if set(quantities) <= _SUMS else host_kernels.table_of_all
        rows = [quantities.index(name) if name in quantities else -1 for name in QUANTITIES]
        self._count = len(weights)
        self._pack = struct.Struct(f"={2 * self._count}q").pack_into
        self._buffer = bytearray(16 * self._count)
        # Kept with the buffer, for the kernel is told addresses only.
        self._tables = [np.array(table, dtype=np.int64) for table in (self._addresses.sizes, columns, rows)]
        sizes, at, where = [table.ctypes.data for table in self._tables]
        self._fixed = (np.frombuffer(self._buffer, dtype=np.int64).ctypes.data, sizes, at, self._count, where)

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], out: Tensor) -> Sequence[int]:
        """Write the columns into ``out``; return the indices of pairs that could not be read."""
        pointers, odd = self._addresses.read(weights, gradients)
        self._pack(self._buffer, 0, *pointers)
        self._kernel(*self._fixed, out.data_ptr(), out.stride(0))
        return odd
