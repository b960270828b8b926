"""What the document reports, typed in: accuracies as means and standard deviations over three seeds, and weights."""

from __future__ import annotations

from typing import NamedTuple


class Accuracy(NamedTuple):
    """Means and standard deviations over three seeds."""

    train: float
    train_std: float
    validation: float
    validation_std: float
    gap: float
    gap_std: float


class Weights(NamedTuple):
    """Of the first seed: mean magnitude and "zeros (weights < 1e-3)"."""

    mean: float
    zeros: int


#: Its tables have no numbers. 1: experiment 1; 3: experiment 2a; 5 and 6: experiment 2b, widths 16 and 256.
ACCURACY_TABLES = {"shallow": 1, "deep-32": 3, "deep-16": 5, "deep-256": 6}
#: The tables of weights.
WEIGHT_TABLES = {"shallow": 2, "deep-32": 4, "deep-16": 7, "deep-256": 8}

ACCURACY: dict[str, dict[str, Accuracy]] = {
    "shallow": {
        "none": Accuracy(0.970, 0.001, 0.950, 0.003, 0.020, 0.002),
        "l0": Accuracy(0.970, 0.001, 0.947, 0.002, 0.023, 0.002),
        "l1": Accuracy(0.960, 0.001, 0.938, 0.002, 0.021, 0.002),
        "l2": Accuracy(0.961, 0.002, 0.934, 0.002, 0.027, 0.005),
        "l3": Accuracy(0.972, 0.002, 0.951, 0.001, 0.022, 0.002),
    },
    "deep-32": {
        "none": Accuracy(1.000, 0.000, 0.869, 0.015, 0.130, 0.015),
        "l0": Accuracy(1.000, 0.000, 0.869, 0.015, 0.130, 0.015),
        "l1": Accuracy(0.997, 0.004, 0.885, 0.032, 0.112, 0.033),
        "l2": Accuracy(1.000, 0.000, 0.886, 0.007, 0.114, 0.007),
        "l3": Accuracy(1.000, 0.000, 0.876, 0.019, 0.123, 0.019),
        "linf": Accuracy(1.000, 0.000, 0.882, 0.005, 0.118, 0.005),
        "dropout": Accuracy(0.998, 0.001, 0.893, 0.018, 0.105, 0.018),
    },
    "deep-16": {
        "none": Accuracy(1.000, 0.000, 0.880, 0.019, 0.120, 0.019),
        "l0": Accuracy(1.000, 0.000, 0.880, 0.019, 0.120, 0.019),
        "l1": Accuracy(1.000, 0.004, 0.896, 0.005, 0.104, 0.005),
        "l2": Accuracy(1.000, 0.000, 0.872, 0.005, 0.128, 0.006),
        "l3": Accuracy(1.000, 0.000, 0.875, 0.021, 0.124, 0.021),
        "linf": Accuracy(0.999, 0.001, 0.876, 0.015, 0.123, 0.016),
        "dropout": Accuracy(0.401, 0.174, 0.367, 0.136, 0.034, 0.051),
    },
    "deep-256": {
        "none": Accuracy(1.000, 0.000, 0.933, 0.017, 0.067, 0.017),
        "l0": Accuracy(1.000, 0.000, 0.933, 0.017, 0.067, 0.017),
        "l1": Accuracy(1.000, 0.004, 0.937, 0.008, 0.063, 0.008),
        "l2": Accuracy(1.000, 0.000, 0.949, 0.006, 0.051, 0.006),
        "l3": Accuracy(1.000, 0.000, 0.940, 0.009, 0.060, 0.009),
        "linf": Accuracy(1.000, 0.000, 0.945, 0.009, 0.055, 0.009),
        "dropout": Accuracy(1.000, 0.000, 0.970, 0.002, 0.030, 0.002),
    },
}

#: The rows of table 2 are labelled no reg., L0, L0, L0, L0; read as no reg., L0, L1, L2, L3.
WEIGHTS: dict[str, dict[str, Weights]] = {
    "shallow": {
        "none": Weights(1.24e-2, 1196),
        "l0": Weights(1.24e-2, 1163),
        "l1": Weights(7.55e-3, 10412),
        "l2": Weights(7.58e-3, 5454),
        "l3": Weights(1.21e-2, 1208),
    },
    "deep-32": {
        "none": Weights(7.01e-2, 4293),
        "l0": Weights(7.01e-2, 4293),
        "l1": Weights(4.44e-2, 5420),
        "l2": Weights(5.92e-2, 4230),
        "l3": Weights(6.42e-2, 4250),
        "linf": Weights(5.16e-2, 4185),
        "dropout": Weights(5.76e-2, 4377),
    },
    "deep-16": {
        "none": Weights(1.01e-1, 1337),
        "l0": Weights(1.01e-1, 1337),
        "l1": Weights(9.64e-2, 1627),
        "l2": Weights(8.86e-2, 1348),
        "l3": Weights(9.09e-2, 1341),
        "linf": Weights(9.69e-2, 1337),
        "dropout": Weights(8.81e-2, 1377),
    },
    "deep-256": {
        "none": Weights(6.45e-3, 228115),
        "l0": Weights(6.45e-3, 228115),
        "l1": Weights(5.97e-3, 246463),
        "l2": Weights(6.45e-3, 227827),
        "l3": Weights(6.48e-3, 227991),
        "linf": Weights(6.06e-3, 226845),
        "dropout": Weights(7.63e-3, 227213),
    },
}
