"""Equations 3 to 7 made visible: how fast loss gradients vanish against the weights while a network collapses.

By equation 5 the gradient of layer l is made of the weights of the later layers, the residual at the output and what
the layer reads, a^(l−1), which by equation 7 is made of the weights before it. So ‖∂L/∂W_l‖ ought to shrink in
proportion to the product of the later layers' norms, and, as far as a^(l−1) vanishes too, of all other layers'.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import linregress

from analyses.common.results import Row

Array = NDArray[np.float64]

#: Gradients below this are left out: products of float32 that small have lost their digits.
SMALLEST = 1e-30
#: Points of a layer that are kept for the figure.
POINTS = 40


def layers(dataset: xr.Dataset) -> list[Row]:
    """For each weight matrix, first layer first: what `slopes` finds in the record of a collapse."""
    matrices = [str(name) for name in dataset["parameter"].values if str(name).endswith("weight")]
    chosen = dataset.sel(parameter=matrices)
    gradient, weight = (chosen[f"{name}_norm"].values.astype(np.float64) for name in ("loss_gradient", "weight"))
    return slopes(matrices, gradient, weight)


def slopes(names: list[str], gradient: Array, weight: Array) -> list[Row]:
    """Slopes on log-log axes of ‖∂L/∂W_l‖ [steps, layers] against products of norms ``weight`` [steps, layers].

    ``later``: against the product of the later layers' norms (None for the last layer, which has none).
    ``others``: of all other layers' norms. ``own``: against the layer's own norm, so that 1 would be "as fast as the
    weights". ``r``: the correlation behind ``others``. Counted over the steps in which the weights shrink and the
    gradients are above rounding.
    """
    found = []
    logs = np.log10(np.maximum(weight, 1e-300))
    shrinking = logs.sum(1) < logs[0].sum() - 0.1 * logs.shape[1]
    for k, name in enumerate(names):
        counted = shrinking & (gradient[:, k] > SMALLEST)
        row: Row = {"layer": name, "steps": int(counted.sum())}
        if counted.sum() >= 10:
            size = np.log10(gradient[counted, k])
            later, own = logs[counted, k + 1 :].sum(1), logs[counted, k]
            others = logs[counted].sum(1) - own
            fit = linregress(others, size)
            row |= {"others": _rounded(fit.slope), "r": _rounded(fit.rvalue), "own": _slope(own, size)}
            row["later"] = _slope(later, size) if k + 1 < len(names) else None
            kept = np.linspace(0, len(size) - 1, min(POINTS, len(size))).astype(int)
            row["x"], row["y"] = ([_rounded(v) for v in values[kept]] for values in (others, size))
            row["x_later"] = [_rounded(v) for v in later[kept]]
        found.append(row)
    return found


def _slope(x: Array, y: Array) -> float:
    return _rounded(linregress(x, y).slope)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
