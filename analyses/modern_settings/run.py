"""Train the cells of the study: ``python -m analyses.modern_settings.run [--only SETTING ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

from analyses.common import images, study
from analyses.modern_settings.plan import SETTINGS, cells
from analyses.modern_settings.training import train

HERE = Path(__file__).parent


@study.command
def main() -> int:
    """Seed by seed over all settings asked for; whatever was trained before is not trained again."""
    asked = study.options(__doc__ or "", HERE, tuple(SETTINGS), ("cifar10", "cifar10"), seeds=3)
    for part in asked.only:
        if not SETTINGS[part].text:  # what cannot be read is said here, once
            images.load(asked.dataset, folder=asked.data, count=SETTINGS[part].images)
    planned = [cell for part in asked.only for cell in cells(part, asked.seeds)]
    print(f"{len(planned)} trainings", file=sys.stderr)
    return study.missing(train, sorted(planned, key=lambda cell: cell["seed"]), asked)


if __name__ == "__main__":
    main()
