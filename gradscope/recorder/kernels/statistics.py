"""Statistics of tensors: pure functions from lists of tensors to numbers on their device.

This is the way for every device and type, and the twin of the fused kernels that `gradscope.recorder.kernels.table`
prefers where they apply. Nothing here synchronises.

Sums are taken in float64. In float32 the CPU's norm adds one entry after the other (ten million entries of 0.1 come out
9 % off with one thread), and squares of a collapsed run's gradients (1e-30) underflow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.quantities import Sum
from gradscope.recorder.fields import Reduction
from gradscope.recorder.memory import unknown, zeros

#: The rows of the table. ``l1``: Σ|x|. ``nonzero``: entries that are not exactly 0.
QUANTITIES = tuple(name.lower() for name in Sum.__members__)
WEIGHT_QUANTITIES = tuple(name for name in QUANTITIES if name.startswith("weight_"))
#: How those of a tensor follow from those of its shards.
OF_SHARDS: dict[str, Reduction] = {
    name: "norm" if name.endswith("_norm") else "max" if name.endswith("_max") else "sum" for name in QUANTITIES
}

#: Device types without float64; their own reductions add up in trees, so that only the range is a concern.
WITHOUT_FLOAT64 = {"mps"}

_ORDER = {"l1": 1.0, "norm": 2.0, "max": float("inf"), "nonzero": 0.0}


def norms(tensors: Sequence[Tensor], which: str) -> list[Tensor]:
    """Compute one norm a tensor (``l1``, ``norm``, ``max`` or ``nonzero``) in float32; 0 for an empty tensor.

    Of complex entries: the moduli are taken (the order 0 of complex numbers looks at the real part only).

    Returns:
        One scalar a tensor.
    """
    tensors = [t.abs() if t.is_complex() else t for t in tensors]
    found: dict[int, Tensor] = {}
    alike: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, t in enumerate(tensors):
        if t.numel():
            alike.setdefault((t.dtype, t.device), []).append(i)
        else:
            found[i] = zeros((), t.device)
    for (dtype, device), where in alike.items():
        values = _norms([tensors[i] for i in where], which, _wide(dtype, device))
        found |= {i: value.to(torch.float32) for i, value in zip(where, values, strict=True)}
    return [found[i] for i in range(len(tensors))]


def nonfinite_counts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Count the infinities and NaNs of each tensor: times 0 they turn to NaN, which counts as not zero."""
    return norms([t * 0.0 for t in tensors], "nonzero")


def dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """Compute ⟨left, right⟩ of each pair of tensors (its real part), in float32."""
    found = []
    for a, b in zip(left, right, strict=True):
        wide = _wide(a.dtype, a.device)
        product = torch.vdot(a.reshape(-1).to(wide), b.reshape(-1).to(wide))
        found.append((product.real if product.is_complex() else product).to(torch.float32))
    return found


def foreach_table(
    weights: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    quantities: Sequence[str],
    device: torch.device,
) -> Tensor:
    """Compute the table of these quantities for these parameters.

    Args:
        weights: P tensors on one device, plain and strided, of any familiar dtype and size; None: not known.
        gradients: likewise.
        quantities: the rows.
        device: of the table.

    Returns:
        [Q, P] float32; NaN where there is no tensor.
    """
    nothing = unknown((), device)
    present = {i: w for i, w in enumerate(weights) if w is not None}
    seen = {i: g for i, g in enumerate(gradients) if g is not None}
    both = [i for i, g in seen.items() if i in present and present[i].numel() == g.numel()]
    rows = []
    for quantity in quantities:
        if quantity == "dot":
            where, values = both, dots([present[i] for i in both], [seen[i] for i in both])
        else:
            mine = present if quantity in WEIGHT_QUANTITIES else seen
            where, tensors = list(mine), list(mine.values())
            which = quantity.partition("_")[2]
            values = nonfinite_counts(tensors) if which == "nonfinite" else norms(tensors, which)
        found = dict(zip(where, values, strict=True))
        rows.append(torch.stack([found.get(i, nothing) for i in range(len(weights))]))
    return torch.stack(rows)


def _wide(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64)


def _norms(tensors: list[Tensor], which: str, wide: torch.dtype) -> Sequence[Tensor]:
    if which != "norm" or wide is torch.float64:
        return torch._foreach_norm(tensors, _ORDER[which], dtype=wide)
    # Squares of what is scaled to 1 stay in range. An entry that is not finite leaves NaN or ±inf / inf = NaN.
    largest = [m.clamp_min(torch.finfo(torch.float32).tiny) for m in _norms(tensors, "max", wide)]
    scaled = [t.to(wide) / m for t, m in zip(tensors, largest, strict=True)]
    found = torch._foreach_norm(scaled, 2.0, dtype=wide)
    return [torch.where(m.isinf(), m, m * n) for m, n in zip(largest, found, strict=True)]
