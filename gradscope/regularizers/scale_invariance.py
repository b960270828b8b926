"""Find weights whose scale the loss does not depend on: those followed by batch, layer, group or instance norm.

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
#: Rows after which nobody waits any more for weights to get a gradient (behind a layer that begins at 0).
LONGEST = 1024
#: RMS of cosine·√n below which weights count as invariant, and from which on as not. Measured: 6e-4 at most with
#: batch, group and instance norm (float32), .005 under bfloat16 autocast, .2 at least elsewhere; docs/penalties.md has
#: the table. Between the two lies what low precision leaves of a 0.
LIMIT, CLEAR = 0.02, 0.2

NOTE = (
    "the loss does not depend on the scale of these weights, for a normalisation follows: an L2 penalty on them does "
    "not simplify the net, it raises their effective learning rate lr/‖w‖² (arXiv 1706.05350); 'with bias': the "
    "scale of weight and bias together"
)
NONE = "none: no weight is followed by a normalisation"
SO_FAR = "none was found; of the undecided weights nothing is claimed"


class Cosines:
    """RMS of cosine·√n between weight and gradient, per parameter, over the first `ROWS` rows with a gradient.

    Args:
        numel: weights of each parameter, [P].
    """

    def __init__(self, numel: NDArray[Any]) -> None:
        self._numel = numel
        self.count = np.zeros(len(numel), dtype=np.int64)
        self._squares = np.zeros(len(numel))

    def add(self, dot: NDArray[Any], weight_norm: NDArray[Any], gradient_norm: NDArray[Any]) -> None:
        """Add rows [N, P] of ⟨w, g⟩, ‖w‖ and ‖g‖."""
        with np.errstate(invalid="ignore"):  # 0 times an infinite gradient
            size = weight_norm.astype(np.float64) * gradient_norm
        live = np.isfinite(dot) & np.isfinite(size) & (size > 0)
        live &= self.count + np.cumsum(live, axis=0) <= ROWS
        cosine = np.divide(dot, size, out=np.zeros_like(size), where=live)
        self.count += live.sum(axis=0)
        self._squares += (cosine**2).sum(axis=0)

    @property
    def rms(self) -> NDArray[np.float64]:
        """RMS of each parameter, [P]; NaN where too few rows have a gradient."""
        known = self.count >= ROWS
        return np.where(known, np.sqrt(self._squares / np.maximum(self.count, 1) * self._numel), np.nan)


def invariant(
    dot: NDArray[Any], weight_norm: NDArray[Any], gradient_norm: NDArray[Any], numel: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return whether ⟨w, g⟩ vanishes in rows [N, P], per parameter; False with fewer than `ROWS` gradients."""
    cosines = Cosines(numel)
    cosines.add(dot, weight_norm, gradient_norm)
    found: NDArray[np.bool_] = cosines.rms < LIMIT
    return found


class ScaleInvariance:
    """Detector of scale-invariant weights, told the rows of a record until each weight is decided."""

    def __init__(self, names: Sequence[str], numel: NDArray[Any], matrices: NDArray[np.bool_]) -> None:
        self._names, self._matrices = list(names), matrices
        self._alone, self._joint = Cosines(numel), Cosines(numel)
        self._rows = 0
        self._last: dict[str, Any] | None = None
        self._over = False

    def see(self, block: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
        """Return what is new for the record's ``capture``, None if nothing is."""
        if self._over:
            return None
        if "weight_gradient_dot" not in block:
            self._over = True
            return {"parameters": None, "note": "not looked for: this preset does not record weight_gradient_dot"}
        dot, *norms = (block[name] for name in ("weight_gradient_dot", "weight_norm", "loss_gradient_norm"))
        self._alone.add(dot, *norms)
        self._joint.add(self._with_bias(dot), *norms)
        self._rows += len(dot)
        if self._rows < ROWS:
            return None
        found = self._found()
        self._over = self._rows >= LONGEST or bool((self._alone.count >= ROWS)[self._matrices].all())
        new, self._last = found != self._last, found
        return found if new else None

    def _found(self) -> dict[str, Any]:
        alone, joint = self._alone.rms, self._joint.rms
        found, undecided = {}, {}
        for i in np.flatnonzero(self._matrices):
            name = self._names[i]
            if alone[i] < LIMIT or joint[i] < LIMIT:
                found[name] = "alone" if alone[i] < LIMIT else "with bias"
            elif np.isnan(alone[i]):
                undecided[name] = f"fewer than {ROWS} rows with a gradient"
            elif min(alone[i], joint[i]) < CLEAR:
                undecided[name] = f"RMS of cosine·√n is {min(alone[i], joint[i]):.2g}: low precision, or not invariant"
        note = NOTE if found else SO_FAR if undecided else NONE
        return {"parameters": found, "note": note} | ({"undecided": undecided} if undecided else {})

    def _with_bias(self, dot: NDArray[Any]) -> NDArray[Any]:
        """Add to ⟨w, g⟩ of each weight that of its own bias: a norm over channels sees both on one scale."""
        column = {name: i for i, name in enumerate(self._names)}
        out = dot.astype(np.float64).copy()
        for name, i in column.items():
            partner = column.get(name.removesuffix("weight") + "bias") if name.endswith("weight") else None
            if partner is not None:
                out[:, i] += dot[:, partner]
        return out
