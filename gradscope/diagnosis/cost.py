"""Compare the metrics of a penalised run with those of the same training without a penalty; never a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gradscope.quantities import Strength


@dataclass(frozen=True)
class Finished:
    """One run, as far as its cost is concerned.

    Attributes:
        label: name of the run.
        strength: of its penalty.
        failed: whether it did not learn.
        metrics: of its epochs, [epochs] each.
    """

    label: str
    strength: Strength
    failed: bool
    metrics: Mapping[str, ArrayLike]

    def last(self, name: str) -> float | None:
        """Return the last finite value of a metric."""
        values = np.asarray(self.metrics.get(name, ()), dtype=np.float64)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None


def costs(runs: Sequence[Finished]) -> list[str]:
    """Compare each penalised run that learned with the run without a penalty, by the metrics that they share.

    Returns:
        Sentences; none where there is no run without a penalty, or several: then nobody knows which is meant.
    """
    without = [run for run in runs if run.strength.value == 0 and not run.failed]
    if len(without) != 1:
        return []
    (bare,) = without
    said = []
    for run in runs:
        if not run.strength.value or run.failed:
            continue
        for name in run.metrics:
            here, there = run.last(name), bare.last(name)
            if name != "epoch" and here is not None and there is not None:
                under = f"{here:.4g} in {run.label}, with {run.strength}"
                free = f"{there:.4g} without a penalty, in {bare.label}"
                said.append(f"{name} ends at {under}, and at {free}: {here - there:+.3g}")
    if said:
        said.append("one pair of runs does not tell this from chance; gradscope tune compares in pairs of seeds")
    return said
