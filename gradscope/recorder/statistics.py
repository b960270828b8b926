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
    """One norm a tensor in float32, accumulated in float32 or better; 0 for an empty tensor."""
    found: dict[int, Tensor] = {}
    by_dtype: dict[torch.dtype, list[int]] = {}
    for i, t in enumerate(tensors):
        if t.numel():
            by_dtype.setdefault(t.dtype, []).append(i)
        else:
            found[i] = torch.zeros((), device=t.device)
    for dtype, where in by_dtype.items():
        wide = torch.promote_types(dtype, torch.float32)
        values = torch._foreach_norm([tensors[i] for i in where], _ORDER[which], dtype=wide)
        found |= {i: value.to(torch.float32) for i, value in zip(where, values, strict=True)}
    return [found[i] for i in range(len(tensors))]


def nonfinite_counts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The number of infinities and NaNs a tensor: times 0 they turn to NaN, which counts as not zero."""
    return norms(torch._foreach_mul(list(tensors), 0.0), "nonzero")


def dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """⟨left, right⟩ a pair of tensors (its real part), in float32, accumulated in float32 or better."""
    found = []
    for a, b in zip(left, right, strict=True):
        wide = torch.promote_types(a.dtype, torch.float32)
        product = torch.vdot(a.reshape(-1).to(wide), b.reshape(-1).to(wide))
        found.append((product.real if product.is_complex() else product).to(torch.float32))
    return found


def parameter_table(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], quantities: Sequence[str]) -> Tensor:
    """The table of these quantities for these parameters, [Q, P]; NaN where there is no gradient."""
    if host_statistics.suits(weights, gradients):
        return host_statistics.parameter_table(weights, [g for g in gradients if g is not None], quantities)
    return foreach_table(weights, gradients, quantities)


def foreach_table(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], quantities: Sequence[str]) -> Tensor:
    """The same with foreach kernels, for any device and type."""
    seen = [i for i, g in enumerate(gradients) if g is not None]
    grads = [g.detach().to_dense() if g.is_sparse else g.detach() for g in gradients if g is not None]
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


class TablePlan:
    """Shim."""

    def __init__(self, weights: Sequence[Tensor], quantities: Sequence[str]) -> None:
        self.quantities = quantities

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], out: Tensor) -> None:
        out.copy_(parameter_table(weights, gradients, self.quantities))
