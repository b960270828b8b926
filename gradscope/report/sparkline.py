"""Draw a series as one line of block characters, for terminals."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(
    values: ArrayLike, width: int = 40, *, log: bool = False, low: float | None = None, high: float | None = None
) -> str:
    """Draw a series in at most ``width`` characters, each the mean of what it stands for; a blank where nothing is.

    A series that does not change is drawn along the bottom.

    Args:
        values: the series, [N].
        width: characters at most.
        log: heights follow log₁₀, and values that are not positive are blank.
        low: value of the lowest block, for lines that share a scale; by default the smallest of the series.
        high: value of the highest block, likewise.

    Returns:
        One line.
    """
    y = np.asarray(values, dtype=np.float64)
    if not len(y):
        return ""
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log10(y) if log else y
    y = np.where(np.isfinite(y), y, np.nan)
    edges = np.linspace(0, len(y), min(width, len(y)) + 1).astype(int)
    cells = [_mean(y[start:stop]) for start, stop in pairwise(edges)]
    seen = [cell for cell in cells if not math.isnan(cell)]
    if not seen:
        return " " * len(cells)
    bottom = min(seen) if low is None else math.log10(low) if log else low
    top = max(seen) if high is None else math.log10(high) if log else high
    span = top - bottom
    return "".join(" " if math.isnan(cell) else BLOCKS[_height(cell - bottom, span)] for cell in cells)


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else math.nan


def _height(above: float, span: float) -> int:
    if span <= 1e-9 * max(1.0, abs(above)):
        return 0
    return min(len(BLOCKS) - 1, max(0, int(above / span * len(BLOCKS))))
