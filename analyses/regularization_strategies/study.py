"""Regularization Strategies in Deep Learning: ten strategies on one convolutional net."""

from __future__ import annotations

from analyses.common.results import Cell
from analyses.common.study import Options, Part, Study
from analyses.regularization_strategies import plot
from analyses.regularization_strategies.strategies import PARTS, STRATEGIES
from analyses.regularization_strategies.training import prepared, train


def cells(asked: Options) -> list[Cell]:
    """Seed by seed, so that what is there early is a whole table."""
    names = [name for part in asked.only for name in PARTS[part] if not (asked.paper and STRATEGIES[name].longer > 1)]
    return [{"strategy": name, "seed": seed} for seed in range(asked.seeds) for name in names]


STUDY = Study(
    "regularization_strategies", dict.fromkeys(PARTS, Part(cells, train)), plot.tables, plot.figures, look=prepared,
    datasets=("digits", "cifar10"), seeds=3,
)  # fmt: skip
