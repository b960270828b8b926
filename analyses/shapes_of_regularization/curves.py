"""Does a learning curve improve, lose and improve again? And is that double descent?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dip:
    """The deepest valley between two rises of a curve of accuracies.

    ``before``, ``at``, ``after``: the best accuracy before it, its bottom, the best after it. ``where``: the steps
    of the peak before and of the bottom.
    """

    before: float
    at: float
    after: float
    where: tuple[int, int]

    @property
    def depth(self) -> float:
        """How far the curve falls, and comes back at least: min(before, after) − at."""
        return min(self.before, self.after) - self.at

    @property
    def to_new_heights(self) -> bool:
        """Better after it than before."""
        return self.after > self.before


def deepest_dip(steps: Sequence[int], accuracy: Sequence[float], window: int = 3) -> Dip:
    """Of a curve smoothed by the median of ``window`` measurements (odd), so that one spike is no valley."""
    values = np.asarray(accuracy, dtype=float)
    half = window // 2
    padded = np.pad(values, half, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=-1)
    before = np.maximum.accumulate(smooth)
    after = np.maximum.accumulate(smooth[::-1])[::-1]
    bottom = int(np.argmax(np.minimum(before, after) - smooth))
    peak = int(np.argmax(smooth[: bottom + 1]))
    return Dip(
        float(before[bottom]), float(smooth[bottom]), float(after[bottom]), (int(steps[peak]), int(steps[bottom]))
    )
