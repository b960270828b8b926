"""Histograms of magnitudes in fixed bins, the same for every tensor, step and run.

The edges are powers of two, a factor of 4 apart, from 2⁻⁴⁰ to 2¹⁰ (9e-13 to 1e3): an edge is the same number in every
dtype, and on the host an entry's bin is read off the bits of its exponent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gradscope.recorder.kernels.addresses import is_readable
from gradscope.recorder.kernels.kinds import Unreadable, entries
from gradscope.recorder.memory import full, zeros

#: A bin holds |x| from its edge up to, not including, the next.
HISTOGRAM_EDGES = 2.0 ** np.arange(-40, 11, 2)
#: Columns of a histogram: exact zeros, non-zeros below the first edge, the bins, the last edge and above (and ±inf).
COLUMNS = len(HISTOGRAM_EDGES) + 2
#: The lower edge of each column: 0 for exact zeros, then the smallest positive float32.
BIN_EDGES = np.array([0.0, 2.0**-149, *HISTOGRAM_EDGES])

#: Entries that histc counts at once: in float32 it cannot count beyond 2²⁴.
_PIECE = 1 << 24
# float32 has 2^(k-127) <= |x| < 2^(k-126) for an exponent of the bits k, and denormals for 0.
_COLUMN_OF_EXPONENT = np.searchsorted(HISTOGRAM_EDGES, 2.0 ** (np.arange(256) - 127.0), side="right") + 1


def histogram(tensors: Sequence[Tensor | None], out: Tensor) -> None:
    """Write the histogram of |x| of each tensor into ``out`` [P, COLUMNS], float32.

    NaN where there is no tensor or its entries cannot be read. A sparse tensor is laid out densely. NaN entries are not
    counted. Counts are exact up to 2²⁴, then rounded. Nothing synchronises. Twin: numpy.histogram.
    """
    for row, tensor in zip(out, tensors, strict=True):
        if tensor is None:
            row.fill_(float("nan"))
            continue
        try:
            t = entries(tensor)
        except Unreadable:
            row.fill_(float("nan"))
            continue
        kernel = _kernel() if t.device.type == "cpu" and t.dtype is torch.float32 and is_readable(t) else None
        found = _on_the_host(t, kernel) if kernel is not None else _elsewhere(t)
        row.copy_(found, non_blocking=True)


@cache
def _kernel() -> Callable[[int, int, int], None] | None:
    try:
        from gradscope.recorder.kernels import host_kernels  # here, for it takes half a second
    except ImportError:  # no numba
        return None
    kernel: Callable[[int, int, int], None] = host_kernels.magnitudes
    return kernel


def _on_the_host(tensor: Tensor, kernel: Callable[[int, int, int], None]) -> Tensor:
    counts = np.empty(258, dtype=np.int64)
    kernel(tensor.data_ptr(), tensor.numel(), counts.ctypes.data)
    zeros, nans = counts[256:]
    counts[0] -= zeros
    counts[255] -= nans
    columns = np.bincount(_COLUMN_OF_EXPONENT, counts[:256], COLUMNS)
    columns[0] = zeros
    return torch.from_numpy(columns)


def _elsewhere(tensor: Tensor) -> Tensor:
    x = tensor.abs().reshape(-1)
    if x.dtype is not torch.float64:
        x = x.float()
    # Made on the device: a copy from the host would wait.
    edges = full((len(HISTOGRAM_EDGES),), 4.0, x.device, x.dtype).cumprod(0) * 2.0**-42
    total = zeros((COLUMNS,), x.device)
    for piece in x.split(_PIECE):
        column = torch.bucketize(piece, edges, right=True) + 1
        column = column.masked_fill(piece == 0, 0).masked_fill(piece.isnan(), -1)
        total += torch.histc(column.float(), COLUMNS, -0.5, COLUMNS - 0.5)
    return total
