"""The Shapes of Regularization: norms as penalties on perceptrons without biases."""

from __future__ import annotations

from pathlib import Path

from analyses.common.results import Cell
from analyses.common.study import Options, Part, Study
from analyses.shapes_of_regularization import plot, recount
from analyses.shapes_of_regularization.networks import IN_ORDER, NETS, SEEDS
from analyses.shapes_of_regularization.training import MASKS, VARIANTS, prepared, train
from gradscope.types import InputError

#: Of dropout, beside the notebook's own: whether its outcome hangs on them.
OTHER_MASKS = 3
PARTS = (*NETS, "sensitivity", "masks")
#: Varied on the net of experiment 2a.
SENSITIVE = ("none", "l1", "l2", "dropout")


def cells(asked: Options) -> list[Cell]:
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


def look(asked: Options) -> None:
    """The images. Raises `InputError` for more seeds than the document has."""
    if asked.paper and asked.seeds > len(SEEDS):
        raise InputError(f"--seeds is {asked.seeds}; the document has {len(SEEDS)}: {', '.join(map(str, SEEDS))}")
    prepared(asked)


CHECKOUT = "a clone of github.com/riveSunder/SortaSota, whose own weights are counted again"
STUDY = Study(
    "shapes_of_regularization", {**dict.fromkeys(PARTS, Part(cells, train)), "recount": recount.recount}, plot.tables,
    plot.figures, look=look, datasets=("digits", "digits"), seeds=3, usual=PARTS,
    options={"--checkout": {"type": Path, "help": CHECKOUT}},
)  # fmt: skip
