"""Adapting Regularization with Learning Rate: weight decay that follows the rate, and gradients held back."""

from __future__ import annotations

from analyses.common.results import Cell
from analyses.common.study import Options, Part, Study
from analyses.learning_rate_taper import plot
from analyses.learning_rate_taper.protocol import DEEP, FIXED, LONG, READINGS, SHALLOW, SPARSE, TAPERED, WEAKEST
from analyses.learning_rate_taper.training import prepared, train

#: Figures 1 and 3; 2 and 4; 5 and 6; Figure 1 with more steps, at small scale.
PARTS = ("shallow", "deep", "sparse", "long")


def cells(asked: Options) -> list[Cell]:
    """The figures of a set; seed by seed, so that what is there early is a whole figure.

    With a hundred classes the sparse gradients are tried on the shallow net (Figure 6), else on the deep one (5).
    """
    decays = (*TAPERED, *FIXED)
    sparse = SHALLOW if asked.dataset in ("cifar100", "pairs") else DEEP
    kinds = {
        "shallow": [(SHALLOW, name, reading) for reading in READINGS for name in decays],
        "deep": [(DEEP, name, reading) for reading in READINGS for name in decays],
        # The comparison is a fixed decay of 1e-4, with no gradient held back.
        "sparse": [(sparse, name, "table") for name in (WEAKEST, *SPARSE)],
        "long": [(SHALLOW, name, LONG) for name in decays if asked.dataset == "digits"],
    }
    wanted = dict.fromkeys(kind for part in PARTS if part in asked.only for kind in kinds[part])
    return [
        {"layers": layers, "setting": name, "reading": reading, "seed": seed}
        for seed in range(asked.seeds)
        for layers, name, reading in wanted
    ]


STUDY = Study(
    "learning_rate_taper", dict.fromkeys(PARTS, Part(cells, train)), plot.tables, plot.figures, look=prepared,
    datasets=("digits", "cifar10"), seeds=5,
)  # fmt: skip
