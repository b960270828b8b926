"""Improving L2 Regularization based on Auto L2: strengths that follow the training."""

from __future__ import annotations

from analyses.auto_l2 import plot
from analyses.auto_l2.methods import ALL, LONG, PARTS
from analyses.auto_l2.training import prepared, train
from analyses.common.results import Cell
from analyses.common.study import Options, Part, Study

#: What is trained long at small scale: whether Advance L2 ends best, once its weights have grown again.
PATIENT = ("5e-4", "method 2, λ ≤ 10", "1e-4, small start")


def cells(asked: Options) -> list[Cell]:
    """In the order of the figures, seed by seed."""
    return [
        {"net": net, "method": method, "seed": seed}
        for seed in range(asked.seeds)
        for net in PARTS
        if net in asked.only
        for method in (PATIENT if net == LONG else ALL)
        if net != LONG or not asked.paper
    ]


STUDY = Study(
    "auto_l2", dict.fromkeys(PARTS, Part(cells, train)), plot.tables, plot.figures, look=prepared,
    datasets=("digits", "cifar10"), seeds=3,
)  # fmt: skip
