"""95 % intervals for figures, none of them beyond what is possible."""

from __future__ import annotations

import numpy as np

from gradscope.report.curves import Array

CONFIDENCE = 0.95
#: Values that an interval takes at least, and what stands for a mean of exactly 0 or 1 (whose log odds are infinite).
FEWEST, SURE = 3, 1e-3


def mean_interval(values: Array) -> tuple[float, float, float]:
    """Compute the mean over seeds and the ends of its 95 % interval by Student's t.

    Of shares (all within [0, 1]) on the scale of the mean's log odds, with the standard error carried there (delta
    method), so that no end lies beyond 0 or 1. In simulations of 3 to 10 accuracies of runs that
    all learn it holds the true mean 93 to 96 times of 100 (tests/report/test_intervals.py; t over the log odds of each
    run 89 to 96, t cut off at 0 and 1 92 to 96, a bootstrap 71 to 91). Near
    the tolerance level some seeds learn and some fail; no interval of few runs knows that when all of them did the
    same: a figure shows the single runs too.

    Args:
        values: one a run, [N].

    Returns:
        Mean, low and high; NaN ends for fewer than `FEWEST` values.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < FEWEST:
        return mean, np.nan, np.nan
    from scipy.special import expit, logit  # here, for a table of runs needs no intervals
    from scipy.stats import t as student

    half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    if (values < 0).any() or (values > 1).any():
        return mean, mean - half, mean + half
    centre = mean if 0 < mean < 1 else abs(mean - SURE)
    half /= centre * (1 - centre)
    low, high = float(expit(logit(centre) - half)), float(expit(logit(centre) + half))
    return mean, min(mean, low), max(mean, high)
