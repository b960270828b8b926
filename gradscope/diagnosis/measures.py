"""Measures of a series up to row n: pure functions, the arithmetic of the judge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.series import Array, Series


def losses(series: Series, n: int) -> Array:
    """Return the losses that were logged before row n; a loss may be logged less often than rows are recorded."""
    known = series.loss[:n]
    return known[np.isfinite(known)]


def loss_level(series: Series, start: int, n: int) -> float:
    """Compute the mean of the losses logged in these rows; of the last one before, where there is none."""
    here = series.loss[start:n]
    here = here[np.isfinite(here)]
    if not here.size:
        here = losses(series, n)[-1:]
    return float(here.mean()) if here.size else np.nan


def best_level(series: Series, n: int, length: int) -> float:
    """Compute the smallest mean of ``length`` losses in a row."""
    known = losses(series, n)
    if len(known) < length:
        return np.inf
    sums = np.cumsum(np.insert(known, 0, 0.0))
    return float((sums[length:] - sums[:-length]).min() / length)


def still_improving(series: Series, n: int, standard_errors: float) -> bool:
    """Return whether the loss of the last quarter is clearly below that of the quarter before: not over yet."""
    known = losses(series, n)
    size = len(known) // 4
    if size < 8:
        return False
    now, before = known[-size:], known[-2 * size : -size]
    error = np.sqrt((now.var(ddof=1) + before.var(ddof=1)) / size)
    return bool(now.mean() + standard_errors * error < before.mean())


def not_finite(series: Series, n: int) -> NDArray[np.bool_]:
    """Return which rows are not finite. A loss of NaN alone is none of them: it may just not have been logged."""
    return np.asarray(
        ~np.isfinite(series.weight[:n]) | np.isinf(series.loss[:n]) | (series.nonfinite[:n] > 0), dtype=bool
    )


def last_windows(series: Series, n: int, shortest: int) -> tuple[slice, slice]:
    """Return the last window and the one before it: half an e-folding time each, within what there is."""
    rate = series.rate[n - 1]
    spacing = max(1.0, float(series.step[n - 1] - series.step[0]) / max(n - 1, 1))
    rows = 1 / (rate * spacing) if rate > 0 else shortest
    length = int(np.clip(rows / 2, shortest / 2, max(n // 2, 1)))
    return slice(n - length, n), slice(max(0, n - 2 * length), n - length)


def radial_balance(series: Series, part: slice) -> float:
    """Compute B = −Σ⟨w, ∂L/∂w⟩ / Σ⟨w, λ∂Ω/∂w⟩ over these rows; NaN where it was not recorded or nothing pushes."""
    push = series.push[part].sum()
    return float(series.pull[part].sum() / push) if push > 0 else np.nan


def weight_size(series: Series, n: int) -> Array:
    """Return ‖w‖ of all watched parameters, or mean |w| where no norms were recorded."""
    square = series.weight_square
    return np.sqrt(square) if np.isfinite(square[n - 1]) else series.weight


def shrinking_since(series: Series, n: int) -> int:
    """Return the row from which the weights have only been shrinking: that of their last maximum under the penalty."""
    off = np.flatnonzero(~(series.strength[:n] > 0))
    start = int(off[-1]) + 1 if len(off) and off[-1] + 1 < n else 0
    size = weight_size(series, n)[start:n]
    return start if np.isnan(size).all() else start + int(np.nanargmax(size))


def fallen(series: Series, start: int, n: int, shortest: int) -> tuple[float, float]:
    """Compute ln of the factors by which mean |w| and mean |∂L/∂w| fell from row ``start`` to the last window."""
    now, _ = last_windows(series, n, shortest)
    first = slice(start, start + max(1, shortest // 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        shrunk = np.log(series.weight[start] / series.weight[n - 1])
        faded = np.log(series.gradient[first].mean() / series.gradient[now].mean())
    return float(shrunk), float(faded)


def e_foldings(series: Series, n: int, start: int = 0) -> float:
    """Compute how many e-folding times the penalty has acted, from row ``start`` on."""
    every = np.diff(series.step[:n], prepend=series.step[0] - 1)
    return float((np.nan_to_num(series.rate[:n]) * every)[start:].sum())


def output_is_constant(series: Series, n: int, share: float, fallen: float) -> bool:
    """Return whether the output hardly depends on the input any more, as far as activations were recorded.

    Less than ``share`` of its size does, and less than ``fallen`` of what once did.

    Returns:
        False where activations do not tell.
    """
    known = np.flatnonzero(np.isfinite(series.signal[:n]))
    if len(known) < 2:
        return False
    signal = series.signal[known]
    return bool(signal[-1] <= share * series.output[known[-1]] and signal[-1] <= fallen * signal.max())
