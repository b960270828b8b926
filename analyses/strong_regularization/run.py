"""Train the cells of the study: ``python -m analyses.strong_regularization.run [--dataset digits] [--only PART]``."""

from __future__ import annotations

import sys
from pathlib import Path

from analyses.common import images, study
from analyses.strong_regularization.plan import PARTS, cells, protocol, setup
from analyses.strong_regularization.search import search
from analyses.strong_regularization.training import train
from gradscope.types import InputError

HERE = Path(__file__).parent


def main() -> None:
    """Every part asked for, in order; whatever was trained before is not trained again."""
    asked = study.options(__doc__ or "", HERE, PARTS, ("pairs", "cifar100"), seeds=3)
    try:
        how = protocol(setup(asked).main, asked)
        images.load(asked.dataset, how.size, how.channels, asked.data)  # before anything is trained
    except InputError as error:
        sys.exit(_refused(error))
    for part in asked.only:
        print(part, file=sys.stderr)
        study.complete(search if part == "tolerance" else train, cells(part, asked), asked)


def _refused(error: InputError) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
