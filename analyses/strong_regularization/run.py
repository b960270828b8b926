"""Train the cells of the study: ``python -m analyses.strong_regularization.run [--dataset digits] [--only PART]``."""

from __future__ import annotations

import sys
from pathlib import Path

from analyses.common import images, study
from analyses.strong_regularization.plan import PARTS, cells, protocol, setup
from analyses.strong_regularization.recording import compare
from analyses.strong_regularization.search import search
from analyses.strong_regularization.training import train
from gradscope.types import InputError

HERE = Path(__file__).parent
#: What makes a row of these parts; of all others `train`.
MAKERS = {"tolerance": search, "recording": compare}


@study.command
def main() -> int:
    """Every part asked for, in order; whatever was trained before is not trained again."""
    asked = study.options(__doc__ or "", HERE, PARTS, ("pairs", "cifar100"), seeds=3)
    how = protocol(setup(asked).main, asked)
    images.load(asked.dataset, how.size, how.channels, asked.data, how.images)  # what cannot be read is said here, once
    parts = {part: planned for part in asked.only if (planned := cells(part, asked))}
    missing = 0
    for part, planned in parts.items():
        print(part, file=sys.stderr)
        missing += study.missing(MAKERS.get(part, train), planned, asked)
    if not parts:
        raise InputError(f"nothing of --only {' '.join(asked.only)} is trained on {asked.dataset}")
    return missing


if __name__ == "__main__":
    main()
