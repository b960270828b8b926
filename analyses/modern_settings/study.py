"""Weight decay where nets are normalised and trained by AdamW: what it does, and what a user is told."""

from __future__ import annotations

from analyses.common import images
from analyses.common.results import Cell
from analyses.common.study import Options, Part, Study
from analyses.modern_settings.plan import SETTINGS, cells
from analyses.modern_settings.tables import tables
from analyses.modern_settings.training import train


def look(asked: Options) -> None:
    """The images of the settings that have them."""
    for setting in (SETTINGS[part] for part in asked.only):
        if not setting.text:
            images.load(asked.dataset, folder=asked.data, count=setting.images)


def planned(asked: Options) -> list[Cell]:
    """Seed by seed over all settings."""
    return sorted((cell for part in asked.only for cell in cells(part, asked)), key=lambda cell: int(cell["seed"]))


STUDY = Study(
    "modern_settings", dict.fromkeys(SETTINGS, Part(planned, train)), tables, look=look,
    datasets=("cifar10", "cifar10"), seeds=3,
)  # fmt: skip
