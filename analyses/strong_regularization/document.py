"""What the document reports, typed in from its Tables 2 and 3, for comparison; and how it got its p values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

RUNS = 3
#: Half a 95 % interval over the standard error: by the normal distribution, and by Student's for three runs.
NORMAL, STUDENT = 1.96, float(stats.t.ppf(0.975, RUNS - 1))


@dataclass(frozen=True)
class Reported:
    """A baseline and the delayed method beside it: accuracies in percent with ± of their 95 % intervals.

    ``p``: as printed, None where none is. ``compression``: of the sparse L1 row over the L1 baseline.
    """

    table: int
    dataset: str
    net: str
    penalty: str
    none: float
    baseline: tuple[float, float]
    delayed: tuple[float, float]
    p: float | None
    compression: float | None = None


REPORTED = (
    Reported(2, "cifar100", "vgg16", "l2", 62.08, (69.16, 0.46), (71.01, 0.33), 0.002),
    Reported(2, "cifar100", "vgg16", "l1", 62.08, (66.94, 0.24), (67.55, 0.12), 0.011, 2.4),
    Reported(2, "cifar10", "vgg16", "l2", 90.80, (92.42, 0.16), (92.60, 0.16), 0.103),
    Reported(2, "cifar10", "vgg16", "l1", 90.80, (91.29, 0.16), (91.55, 0.10), 0.037, 2.6),
    Reported(2, "cifar100", "alexnet", "l2", 43.09, (46.91, 0.15), (47.64, 0.33), 0.017),
    Reported(2, "cifar100", "alexnet", "l1", 43.09, (45.70, 0.10), (47.48, 0.29), 0.002, 4.2),
    Reported(2, "cifar10", "alexnet", "l2", 75.05, (78.66, 0.17), (78.65, 0.29), None),
    Reported(2, "cifar10", "alexnet", "l1", 75.05, (76.87, 0.24), (77.63, 0.34), 0.013, 1.9),
    Reported(3, "svhn", "vgg11", "l2", 94.27, (94.82, 0.02), (94.84, 0.04), 0.200),
    Reported(3, "svhn", "vgg16", "l2", 95.10, (95.38, 0.10), (95.53, 0.07), 0.047),
    Reported(3, "svhn", "vgg19", "l2", 95.20, (95.45, 0.14), (95.74, 0.07), 0.019),
    Reported(3, "svhn", "vgg11", "l1", 94.27, (94.68, 0.08), (94.78, 0.07), 0.056, 3.1),
    Reported(3, "svhn", "vgg16", "l1", 95.10, (95.34, 0.11), (95.38, 0.11), 0.324, 2.7),
    Reported(3, "svhn", "vgg19", "l1", 95.20, (95.37, 0.11), (95.50, 0.15), 0.180, 9.9),
)


def p_again(row: Reported, quantile: float) -> float:
    """One-sided p of Welch's t-test from the printed means and intervals, if those are ``quantile`` standard errors."""
    errors = [half / quantile for _, half in (row.baseline, row.delayed)]
    variances = [error**2 for error in errors]
    t = (row.delayed[0] - row.baseline[0]) / math.sqrt(sum(variances))
    freedom = sum(variances) ** 2 / sum(v**2 / (RUNS - 1) for v in variances)
    return float(stats.t.sf(t, freedom))
