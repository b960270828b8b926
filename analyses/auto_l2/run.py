"""Train what the results do not hold yet: python -m analyses.auto_l2.run [--scale paper] [--dataset pairs]."""

from __future__ import annotations

from pathlib import Path

from analyses.auto_l2.methods import ALL
from analyses.auto_l2.training import LONG, prepared, train
from analyses.common import study

#: Without and with batch normalisation: its Figures 1 to 4 show both. The last: four times as long.
PARTS = ("plain", "batch-norm", LONG)
#: What is trained long at small scale: whether Advance L2 ends best, once its weights have grown again.
PATIENT = ("5e-4", "method 2, λ ≤ 10", "1e-4, small start")


def cells(asked: study.Options) -> list[study.Cell]:
    """In the order of the figures, seed by seed."""
    return [
        {"net": net, "method": method, "seed": seed}
        for seed in range(asked.seeds)
        for net in PARTS
        if net in asked.only
        for method in (PATIENT if net == LONG else ALL)
        if net != LONG or not asked.paper
    ]


@study.command
def main() -> int:
    """Train what is missing."""
    folder = Path(__file__).parent
    asked = study.options(__doc__ or "", folder, PARTS, ("digits", "cifar10"), seeds=3)
    prepared(asked)  # what cannot be read is said here, once
    return study.missing(train, cells(asked), asked)


if __name__ == "__main__":
    main()
