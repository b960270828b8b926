"""Train what the results do not hold yet: python -m analyses.shapes_of_regularization.run [--scale paper]."""

from __future__ import annotations

from pathlib import Path

from analyses.common import study
from analyses.shapes_of_regularization.networks import IN_ORDER, NETS, SEEDS
from analyses.shapes_of_regularization.training import MASKS, VARIANTS, prepared, train
from gradscope.types import InputError

#: Of dropout, beside the notebook's own: whether its outcome hangs on them.
OTHER_MASKS = 3
PARTS = (*NETS, "sensitivity", "masks")
#: Varied on the net of experiment 2a.
SENSITIVE = ("none", "l1", "l2", "dropout")


def cells(asked: study.Options) -> list[study.Cell]:
    """In the order of the tables. L0 has no gradient: where every run is seeded it is the run without a penalty."""
    seeds = SEEDS[: asked.seeds] if asked.paper else tuple(range(asked.seeds))
    found = [
        {"net": net, "penalty": penalty, "seed": seed, "variant": ""}
        for seed in seeds
        for net in NETS
        if net in asked.only
        for penalty in IN_ORDER
        if penalty != "l0" or (asked.paper and net == "shallow")
        if not (asked.paper and net == "shallow" and penalty in ("linf", "dropout"))  # not in experiment 1
    ]
    if "sensitivity" in asked.only and not asked.paper:
        found += [
            {"net": "deep-32", "penalty": penalty, "seed": seed, "variant": variant}
            for seed in seeds
            for variant in VARIANTS
            for penalty in SENSITIVE
            if not variant.startswith("strength") or penalty in ("l1", "l2")
        ]
    if "masks" in asked.only and asked.paper:
        found += [
            {"net": "deep-32", "penalty": "dropout", "seed": seed, "variant": f"{MASKS}{number}"}
            for seed in seeds
            for number in range(OTHER_MASKS)
        ]
    return found


@study.command
def main() -> int:
    """Train what is missing."""
    folder = Path(__file__).parent
    asked = study.options(__doc__ or "", folder, PARTS, ("digits", "digits"), seeds=3)
    if asked.paper and asked.seeds > len(SEEDS):
        raise InputError(f"--seeds is {asked.seeds}; the document has {len(SEEDS)}: {', '.join(map(str, SEEDS))}")
    prepared(asked)  # what cannot be read is said here, once
    return study.missing(train, cells(asked), asked)


if __name__ == "__main__":
    main()
