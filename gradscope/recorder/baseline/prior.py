"""Compute the loss of the best constant predictor, from sums over the targets that a loss function has seen.

A constant predictor that is as good as can be puts out, for each output, what minimises the loss over all targets: the
shares of the classes, the mean, the median. Everything here is arithmetic on the host, in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def of_classes(mass: Array) -> float:
    """Compute Σ_c m_c·(−ln(m_c / Σm)): the cross-entropy of the best constant shares, not yet divided by anything.

    Args:
        mass: what multiplies −ln p_c, [C]: targets of that class, with their weights and label smoothing.

    Returns:
        The sum; NaN without targets.
    """
    total = mass.sum()
    seen = mass[mass > 0]
    return float(-(seen * np.log(seen / total)).sum()) if total > 0 else float("nan")


def look_equal(counts: Array) -> bool:
    """Return whether these counts are what equal classes give, [C]: χ² within three standard deviations of its mean."""
    classes, total = len(counts), counts.sum()
    if classes < 2 or total < classes:
        return False
    expected = total / classes
    return bool(((counts - expected) ** 2).sum() / expected <= classes - 1 + 3 * np.sqrt(2 * (classes - 1)))


def unseen(counts: Array, classes: int) -> float:
    """Estimate by how much the entropy of these counts is too low, for some classes have not come yet.

    Chao and Shen's estimate (2003): shares are scaled by the coverage, of which the classes that came once tell, and
    every class counts as often as it would have been missed.

    Args:
        counts: targets of each class, [C].
        classes: how many there are.

    Returns:
        Nats, at most up to the entropy of equal classes.
    """
    counts = np.round(counts[counts > 0.5])
    total = counts.sum()
    if total < 2 or classes < 2:
        return 0.0
    once = float((counts == 1).sum())
    coverage = 1 - min(once, total - 1) / total
    share = coverage * counts / total
    estimate = float(-(share * np.log(share) / -np.expm1(total * np.log1p(-np.minimum(share, 1 - 1e-12)))).sum())
    plain = of_classes(counts) / total
    return float(max(0.0, min(estimate, np.log(classes)) - plain))


def of_bits(yes: Array, no: Array, entries: Array, square: Array) -> float:
    """Compute the mean binary cross-entropy of the best constants, from [F] sums of w·t, w·(1 − t), 1 and t²."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = yes / (yes + no)
        loss = -np.where(yes > 0, yes * np.log(p), 0) - np.where(no > 0, no * np.log1p(-p), 0)
        mean = np.clip(yes / entries, 0, 1)
        spread = np.clip(square / entries - mean**2, 0, None)  # a share of few targets is closer to them than to others
        bias = np.where((p > 0) & (p < 1), spread / (mean * (1 - mean)) / 2, 0)
    return float((loss + np.nan_to_num(bias)).sum() / entries.sum())


def of_squares(total: Array, square: Array, entries: Array) -> float:
    """Compute the mean squared distance from the best constant for each output, [F] sums of t, t² and 1."""
    few = entries / np.maximum(entries - 1, 1)
    return float((np.clip(square - total**2 / entries, 0, None) * few).sum() / entries.sum())


def distances(off: Array, threshold: float) -> Array:
    """Compute the Huber distance of each entry, |x| itself for ``threshold`` 0."""
    size = np.abs(off)
    if threshold <= 0:
        return np.asarray(size)
    return np.asarray(np.where(size < threshold, size**2 / 2, threshold * (size - threshold / 2)))


def of_distances(targets: Array, threshold: float) -> float:
    """Compute the mean Huber distance from the best constants; ``threshold`` 0: of |t − c| itself. [N, F]."""

    def loss(c: Array) -> Array:
        return np.asarray(distances(targets - c, threshold).mean(0))

    if threshold <= 0:
        return float(loss(np.median(targets, axis=0)).mean())
    low, high = targets.min(0), targets.max(0)
    for _ in range(60):  # convex in c: the minimum lies in the better two thirds
        a, b = low + (high - low) / 3, high - (high - low) / 3
        left = loss(a) < loss(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    return float(loss((low + high) / 2).mean())
