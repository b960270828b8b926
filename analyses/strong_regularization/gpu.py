"""The document's VGG-16 with L2 on digit pairs at 32 pixels, 75 trainings, several at a time on one card.

``python -m analyses.strong_regularization.gpu --minutes 8``: the same command goes on where the last one stopped. With
``--out`` on another machine, give ``--done`` the folder of the rows that are there already: they are copied once.
``--tiny`` tries it all on the CPU.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from analyses.common import study
from analyses.common.study import Cell, Options
from analyses.strong_regularization.plan import cell, setup
from analyses.strong_regularization.plot import STYLE, against_strength
from analyses.strong_regularization.training import train
from gradscope import checks
from gradscope.report.figures import figure_of, save
from gradscope.types import InputError

HERE = Path(__file__).parent
#: Twelve, around the level that the narrow nets have at this learning rate.
STRENGTHS = (1e-4, 3e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 0.012, 0.016, 0.024)
SEEDS = 3


def cells(net: str, strengths: tuple[float, ...] = STRENGTHS, seeds: int = SEEDS) -> list[Cell]:
    """Seed by seed, so that whatever fits into the time is a whole figure; none without a penalty first."""
    found = []
    for seed in range(seeds):
        found.append(cell(net, "none", 0.0, "constant", seed))
        found += [cell(net, "l2", s, schedule, seed) for s in strengths for schedule in ("constant", "delayed:5")]
    return found


@study.command
def main() -> int:
    """Trains what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="vgg16", choices=("vgg11", "vgg16", "vgg19", "alexnet"))
    parser.add_argument("--minutes", type=float, default=8, help="no training begins later; default: %(default)g")
    parser.add_argument("--at-once", type=int, default=8, help="trainings at a time on the card; default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE, help="where the rows go")
    parser.add_argument("--done", type=Path, default=HERE, help="where the rows of earlier commands are")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, a thirty-second of the width, one epoch")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        raise InputError("no CUDA device is here; --tiny tries the same on the CPU")
    name = f"{'tiny' if given.tiny else 'card'}-pairs.jsonl"
    checks.writable_folder(given.out)
    if given.done != given.out and (given.done / name).exists() and not (given.out / name).exists():
        shutil.copy(given.done / name, given.out / name)
    device, scale = ("cpu", "tiny") if given.tiny else ("cuda", "card")
    asked = Options(
        "pairs", scale, SEEDS, device, Path("data"), given.at_once, "local", (), given.out / name
    )  # fmt: skip
    planned = cells(given.net, STRENGTHS[:1], 1) if given.tiny else cells(given.net)
    found = study.complete(train, planned, asked, minutes=given.minutes)
    print(f"{len(found)} of {len(planned)} trained: {asked.results}")
    if (panel := against_strength(found, given.net, "l2", setup(asked))) is not None:
        save(figure_of([panel], STYLE), asked.results.with_name(f"figure3-{asked.results.stem}.png"), STYLE)
    return len(planned) - len(found)


if __name__ == "__main__":
    main()
