"""What the document reports. Its figures hold no numbers; these are read from the results published with its code.

github.com/powenfang/optimizing-lambda-of-regularization, folder ``result`` (commit d5bf38f): one training a setting on
CIFAR-10, test accuracy and strength at every fifth step of 200 epochs. Each file was read on 2026-11-21.
"""

from __future__ import annotations

from typing import NamedTuple


class Reported(NamedTuple):
    """Test accuracies in percent: mean of the last five epochs, and the best of all measurements.

    ``to_70``: the epoch (from 0) in which a measurement first reached 70 %. ``changes``: steps and new strengths.
    """

    file: str
    last: float
    best: float
    to_70: int
    changes: tuple[tuple[int, float], ...] = ()


_DOWN_ADVANCE = ((35, 1), (40, 0.1), (45, 0.01), (60, 0.001), (165, 1e-4))
PLAIN = {
    "none": Reported("00_nol2_record", 72.46, 73.13, 13),
    "1e-5": Reported("01_1e-5", 72.86, 73.30, 14),
    "1e-4": Reported("01_1e-4", 72.68, 73.21, 14),
    "5e-4": Reported("01_5e-4", 72.44, 73.62, 14),
    "Auto L2": Reported("01_autoL2", 72.32, 72.97, 15, ((35, 0.01), (50, 0.001), (160, 1e-4))),
    "method 1, 5 %": Reported("03_autoL2_by5pctg", 73.28, 73.84, 13, ((25, 0.01), (50, 0.001), (165, 1e-4))),
    "method 1, 10 %": Reported("03_autoL2_by10pctg", 73.22, 73.65, 14, ((30, 0.01), (45, 0.001), (150, 1e-4))),
    "method 2, Advance L2": Reported(
        "04_AdvanceL2", 72.70, 73.54, 64,
        ((20, 1), (25, 10), (30, 100), (35, 10), (40, 1), (45, 0.1), (50, 0.01), (65, 0.001), (170, 1e-4)),
    ),
    "method 2, second attempt": Reported(
        "04_AdvanceL2_attempt2", 72.80, 73.46, 61, ((20, 1), (25, 10), *_DOWN_ADVANCE)
    ),
    "method 3, 5 %": Reported(
        "05_AdvanceL2_by5pctg", 73.05, 73.57, 15, ((20, 1), (25, 0.1), (30, 0.01), (65, 0.001), (170, 1e-4))
    ),
}  # fmt: skip
BATCH_NORM = {
    "none": Reported("00_bn_nol2_record", 76.31, 76.62, 5),
    "1e-5": Reported("02_bn_1e-05", 76.44, 76.66, 5),
    "1e-4": Reported("02_bn_1e-04", 76.16, 76.43, 5),
    "5e-4": Reported("02_bn_5e-04", 76.71, 77.23, 5),
    "Auto L2": Reported("02_bn_autoL2", 76.57, 77.02, 5, ((35, 0.01), (55, 0.001), (160, 1e-4))),
    "method 1, 5 %": Reported("03_autoL2_by5pctg_bn", 76.61, 77.02, 5, ((90, 0.01), (105, 0.001), (210, 1e-4))),
    "method 1, 10 %": Reported("03_autoL2_by10pctg_bn", 76.67, 77.05, 5, ((85, 0.01), (100, 0.001), (205, 1e-4))),
    "method 2, Advance L2": Reported("04_AdvanceL2_bn", 79.37, 79.79, 15, ((20, 1), (25, 10), *_DOWN_ADVANCE)),
    "method 2, second attempt": Reported(
        "04_AdvanceL2_bn_attempt2", 78.84, 79.31, 10,
        ((20, 1), (25, 0.1), (35, 1), (45, 10), (50, 1), (55, 0.1), (60, 0.01), (75, 0.001), (180, 1e-4)),
    ),
    "method 3, 5 %": Reported(
        "05_AdvanceL2_by5pctg_bn", 78.50, 78.97, 9,
        ((20, 1), (25, 10), (30, 1), (35, 0.1), (40, 0.01), (55, 0.001), (160, 1e-4)),
    ),
}  # fmt: skip
REPORTED = {"plain": PLAIN, "batch-norm": BATCH_NORM}
