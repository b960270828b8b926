"""The table of `gradscope.recorder.statistics` for small models on the CPU.

There the cost is one of calls, not of bytes: eight layers are a hundred small kernels. Laid end to end,
all parameters take one numpy call a quantity. Twin: the foreach path, against which it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Entries up to which laying end to end pays; above it the bytes moved cost more than the calls saved.
LARGEST = 1 << 19

Flat = NDArray[np.float32]

_QUANTITIES: dict[str, Callable[[Flat, Flat, NDArray[np.int64]], Flat]] = {
    "gradient_l1": lambda w, g, at: np.add.reduceat(np.abs(g), at),
    "gradient_norm": lambda w, g, at: np.sqrt(np.add.reduceat(g * g, at)),
    "gradient_max": lambda w, g, at: np.maximum.reduceat(np.abs(g), at),
    "gradient_nonfinite": lambda w, g, at: np.add.reduceat((~np.isfinite(g)).astype(np.float32), at),
    "weight_l1": lambda w, g, at: np.add.reduceat(np.abs(w), at),
    "weight_norm": lambda w, g, at: np.sqrt(np.add.reduceat(w * w, at)),
    "weight_max": lambda w, g, at: np.maximum.reduceat(np.abs(w), at),
    "weight_nonzero": lambda w, g, at: np.add.reduceat((w != 0).astype(np.float32), at),
    "dot": lambda w, g, at: np.add.reduceat(w * g, at),
}


def suits(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> bool:
    """Small, dense, float32, on the CPU, and every parameter has a gradient."""
    total = 0
    for w, g in zip(weights, gradients, strict=True):
        if g is None or w.dtype != torch.float32 or g.dtype != torch.float32 or g.layout != torch.strided:
            return False
        if w.device.type != "cpu" or not w.numel() or type(w.data) is not Tensor:
            return False
        total += w.numel()
    return total <= LARGEST


def parameter_table(weights: Sequence[Tensor], gradients: Sequence[Tensor], quantities: Sequence[str]) -> Tensor:
    """[Q, P], as `gradscope.recorder.statistics.parameter_table` gives it."""
    w = torch.cat([t.detach().reshape(-1) for t in weights]).numpy()
    g = torch.cat([t.detach().reshape(-1) for t in gradients]).numpy()
    sizes = [t.numel() for t in weights]
    at = np.cumsum([0, *sizes[:-1]])
    # A square may leave the range of float32 where the norm does not; the foreach path says inf there too.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return torch.from_numpy(np.stack([_QUANTITIES[name](w, g, at) for name in quantities]))
