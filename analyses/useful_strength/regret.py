"""What a chosen strength lacks of a grid's best one, in deviations of a seed: arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Width of the kernel in decades: tune's own strengths lie so far apart.
WIDTH = 0.1
#: One-sided 5 % of a normal curve.
DOUBT = 1.645


@dataclass(frozen=True)
class Curve:
    """The metric over the strength, larger is better: K strengths, each with the values of several seeds.

    The best of many noisy means lies above the best expected one: with five seeds and twenty strengths on a plateau by
    most of a deviation, which would be everybody's regret. So the curve is smoothed over its neighbours before it is
    looked up; ``against_means`` says the other, too.
    """

    values: Mapping[float, Sequence[float]]

    @cached_property
    def strengths(self) -> Array:
        """[K], weakest first."""
        return np.array(sorted(self.values))

    @property
    def seeds(self) -> int:
        """The fewest of a strength."""
        return min(len(v) for v in self.values.values())

    @cached_property
    def means(self) -> Array:
        """[K]."""
        return np.array([np.mean(self.values[x]) for x in self.strengths])

    @cached_property
    def deviation(self) -> float:
        """Of one run from seed to seed, pooled over the better half of the strengths."""
        better = [self.values[x] for x, m in zip(self.strengths, self.means, strict=True) if m >= np.median(self.means)]
        squares = sum(float(((np.array(v) - np.mean(v)) ** 2).sum()) for v in better)
        return float(np.sqrt(squares / max(sum(len(v) - 1 for v in better), 1)))

    @cached_property
    def within(self) -> float:
        """The same without what a seed does at every strength alike: what comparisons in pairs have left."""
        better = [self.values[x][: self.seeds] for x, m in zip(self.strengths, self.means, strict=True)
                  if m >= np.median(self.means)]  # fmt: skip
        table = np.array(better)
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        return float(np.sqrt((rest**2).sum() / max(freedom, 1)))

    def smoothed(self, strength: float) -> float:
        """The mean of all runs, weighted by their distance in log₁₀ of the strength."""
        apart = (np.log10(self.strengths) - np.log10(strength)) / WIDTH
        counts = np.array([len(self.values[x]) for x in self.strengths])
        weights = counts * np.exp(-(apart**2) / 2)
        return float(weights @ self.means / weights.sum())

    @cached_property
    def best(self) -> float:
        """The strength at which the smoothed curve is highest."""
        return max(map(float, self.strengths), key=self.smoothed)

    def regret(self, strength: float) -> float:
        """What it lacks of the best one by the smoothed curve, in deviations of a seed."""
        return (self.smoothed(self.best) - self.smoothed(strength)) / max(self.deviation, 1e-12)

    def against_means(self, strength: float) -> float:
        """The same by the means as they are, at the nearest strength, against the highest of them."""
        return float((self.means.max() - self.means[self._nearest(strength)]) / max(self.deviation, 1e-12))

    def in_the_set(self, strength: float) -> bool:
        """Whether the nearest strength's mean is not told from the highest one (one-sided, 5 %)."""
        return bool(self.against_means(strength) <= DOUBT * np.sqrt(2 / self.seeds))

    def of_one_seed(self, number: int) -> float:
        """The strength that a grid with this seed alone would choose."""
        return max(map(float, self.strengths), key=lambda x: self.values[x][number])

    def _nearest(self, strength: float) -> int:
        return int(np.abs(np.log10(self.strengths) - np.log10(strength)).argmin())
