"""Per-tensor statistics: pure functions from lists of tensors to one small table on the device.

The table holds sums and norms, [Q, P] in float32; the means that a record shows follow from it on the
host (`gradscope.recorder.rows`). Nothing here synchronises.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.recorder import host_statistics

#: The rows of the table. ``l1``: Σ|x|. ``nonzero``: entries that are not exactly 0.
GRADIENT_QUANTITIES = ("gradient_l1", "gradient_norm", "gradient_max", "gradient_nonfinite")
WEIGHT_QUANTITIES = ("weight_l1", "weight_norm", "weight_max", "weight_nonzero")
QUANTITIES = (*GRADIENT_QUANTITIES, *WEIGHT_QUANTITIES, "dot")

_ORDER = {"l1": 1.0, "norm": 2.0, "max": float("inf"), "nonzero": 0.0}


def norms(tensors: Sequence[Tensor], which: str) -> list[Tensor]:
    """One norm a tensor, accumulated in float32 or better; 0 for an empty tensor."""
    filled = [t for t in tensors if t.numel()]
    if len(filled) == len(tensors):
        return list(torch._foreach_norm(list(tensors), _ORDER[which], dtype=torch.float32))
    found = iter(torch._foreach_norm(filled, _ORDER[which], dtype=torch.float32) if filled else ())
    return [next(found) if t.numel() else t.new_zeros((), dtype=torch.float32) for t in tensors]


def nonfinite_counts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The number of infinities and NaNs a tensor: times 0 they turn to NaN, which counts as not zero."""
    return norms(torch._foreach_mul(list(tensors), 0.0), "nonzero")


def dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """⟨left, right⟩ a pair of tensors, in float32."""
    return [torch.dot(a.reshape(-1).float(), b.reshape(-1).float()) for a, b in zip(left, right, strict=True)]


def parameter_table(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], quantities: Sequence[str]) -> Tensor:
    """The table of these quantities for these parameters, [Q, P]; NaN where there is no gradient."""
    if host_statistics.suits(weights, gradients):
        return host_statistics.parameter_table(weights, [g for g in gradients if g is not None], quantities)
    return foreach_table(weights, gradients, quantities)


def foreach_table(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], quantities: Sequence[str]) -> Tensor:
    """The same with foreach kernels, for any device and type."""
    seen = [i for i, g in enumerate(gradients) if g is not None]
    grads = [g.detach() for g in gradients if g is not None]
    plain = [w.detach() for w in weights]
    rows = []
    for quantity in quantities:
        if quantity in WEIGHT_QUANTITIES:
            rows.append(torch.stack(norms(plain, quantity.removeprefix("weight_"))))
            continue
        if quantity == "dot":
            values = dots([plain[i] for i in seen], grads)
        elif quantity == "gradient_nonfinite":
            values = nonfinite_counts(grads) if grads else []
        else:
            values = norms(grads, quantity.removeprefix("gradient_")) if grads else []
        rows.append(_spread(values, seen, plain))
    return torch.stack(rows)


def _spread(values: list[Tensor], seen: list[int], weights: Sequence[Tensor]) -> Tensor:
    if len(seen) == len(weights):
        return torch.stack(values)
    row = torch.full((len(weights),), float("nan"), device=weights[0].device)
    if seen:
        row[seen] = torch.stack(values)
    return row
