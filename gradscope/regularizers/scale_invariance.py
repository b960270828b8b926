"""Which weights the loss does not depend on the scale of: those followed by batch, layer, group or instance norm.

If L(c·w) = L(w) for every c > 0, then ⟨w, ∂L/∂w⟩ = 0 (Euler), whatever the order of the modules is. So the record
itself shows such weights: the cosine between weight and gradient is rounding there, and of the size 1/√n or above
everywhere else. An L2 penalty changes only their effective learning rate (van Laarhoven 2017, arXiv 1706.05350).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows with a gradient that it takes to tell; by chance alone 8 cosines are this small with a probability of 1e-14.
ROWS = 8
#: RMS of cosine·√n below which weights count as invariant. Measured: 6e-4 at most with batch, group and instance norm
#: (float32), .2 at least elsewhere; docs/penalties.md has the table.
LIMIT = 0.02

NOTE = (
    "the loss does not depend on the scale of these weights, for a normalisation follows: an L2 penalty on them does "
    "not simplify the net, it raises their effective learning rate lr/‖w‖² (arXiv 1706.05350); 'with bias': the "
    "scale of weight and bias together"
)


def invariant(
    dot: NDArray[Any], weight_norm: NDArray[Any], gradient_norm: NDArray[Any], numel: NDArray[Any]
) -> NDArray[np.bool_]:
    """Per parameter, from rows [N, P]: ⟨w, g⟩ vanishes. False where fewer than `ROWS` rows have a gradient."""
    with np.errstate(invalid="ignore"):  # 0 times an infinite gradient
        size = weight_norm.astype(np.float64) * gradient_norm
    live = np.isfinite(dot) & np.isfinite(size) & (size > 0)
    cosine = np.divide(dot, size, out=np.zeros_like(size), where=live)
    count = live.sum(axis=0)
    rms = np.sqrt((cosine**2).sum(axis=0) / np.maximum(count, 1))
    found: NDArray[np.bool_] = (count >= ROWS) & (rms * np.sqrt(numel) < LIMIT)
    return found


class ScaleInvariance:
    """Told the first rows of a record, says once which weights are scale-invariant."""

    def __init__(self, names: Sequence[str], numel: NDArray[Any], matrices: NDArray[np.bool_]) -> None:
        self._names, self._numel, self._matrices = list(names), numel, matrices
        self._rows: list[tuple[NDArray[Any], ...]] = []
        self._over = False

    def see(self, block: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
        """The finding for the record's ``capture`` once there are rows enough, None before and ever after."""
        if self._over:
            return None
        if "weight_gradient_dot" not in block:
            self._over = True
            return {"parameters": None, "note": "not looked for: this preset does not record weight_gradient_dot"}
        self._rows.append(tuple(block[n] for n in ("weight_gradient_dot", "weight_norm", "loss_gradient_norm")))
        if sum(len(rows[0]) for rows in self._rows) < ROWS:
            return None
        self._over = True
        dot, weight, gradient = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        self._rows = []
        alone = invariant(dot, weight, gradient, self._numel) & self._matrices
        joint = invariant(self._with_bias(dot), weight, gradient, self._numel) & self._matrices & ~alone
        found = {n: "alone" for n, is_so in zip(self._names, alone, strict=True) if is_so}
        found |= {n: "with bias" for n, is_so in zip(self._names, joint, strict=True) if is_so}
        return {"parameters": found, "note": NOTE if found else "none: no weight is followed by a normalisation"}

    def _with_bias(self, dot: NDArray[Any]) -> NDArray[Any]:
        """⟨w, g⟩ of each weight plus that of its own bias: a norm over channels sees both on one scale."""
        column = {name: i for i, name in enumerate(self._names)}
        out = dot.astype(np.float64).copy()
        for name, i in column.items():
            partner = column.get(name.removesuffix("weight") + "bias") if name.endswith("weight") else None
            if partner is not None:
                out[:, i] += dot[:, partner]
        return out
