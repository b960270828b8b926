"""What the studies say of several seeds: means with 95 % intervals, and whether two means differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Mean:
    """A mean, half the width of its 95 % interval (Student's t), the standard deviation, and how many it is of.

    Of a single value neither interval nor deviation is known: both are NaN.
    """

    value: float
    half_width: float
    std: float
    count: int

    def __str__(self) -> str:
        """To four digits, as a table shows it: ``0.912 ± 0.004``."""
        return f"{self.value:.4g}" if math.isnan(self.half_width) else f"{self.value:.4g} ± {self.half_width:.2g}"


def mean(values: Sequence[float]) -> Mean:
    """Over seeds; below three of them without an interval. Without values everything is NaN."""
    if not values:
        return Mean(math.nan, math.nan, math.nan, 0)
    array = np.asarray(values, dtype=float)
    if len(array) == 1:
        return Mean(float(array[0]), math.nan, math.nan, 1)
    std = float(array.std(ddof=1))
    if len(array) == 2:  # Student's t of two is twelve deviations wide
        return Mean(float(array.mean()), math.nan, std, 2)
    half = float(stats.t.ppf(0.975, len(array) - 1)) * std / math.sqrt(len(array))
    return Mean(float(array.mean()), half, std, len(array))


def p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of Welch's two-sided t-test; NaN with fewer than two values on a side or when neither side varies."""
    if min(len(ours), len(theirs)) < 2 or (np.ptp(ours) == 0 and np.ptp(theirs) == 0):
        return math.nan
    # From means and deviations: of a side that does not vary scipy would warn that it loses digits.
    one, other = mean(ours), mean(theirs)
    sides = (one.value, one.std, one.count, other.value, other.std, other.count)
    return float(stats.ttest_ind_from_stats(*sides, equal_var=False).pvalue)


def paired_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the two-sided t-test of the differences, pair by pair; NaN for fewer than two, or where none varies.

    For runs that share what a seed decides (first weights, order of the batches), most of whose spread is common.
    """
    change = np.subtract(ours, theirs)
    if len(change) < 2 or np.ptp(change) <= 1e-12 * np.abs([*ours, *theirs]).max():  # equal but for rounding
        return math.nan
    found = mean([float(value) for value in change])
    return float(2 * stats.t.sf(abs(found.value) / found.std * math.sqrt(found.count), found.count - 1))


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, ``count`` of so many (Wilson's); 0 to 1 of none.

    Over all shares it holds the true one 95 times of 100 on average; where it does so least, near 0 and 1, 84 times
    with 5 tries and 91 with 100 (tests/analyses/test_common.py).
    """
    if not of:
        return 0.0, 1.0
    found = stats.binomtest(count, of).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
