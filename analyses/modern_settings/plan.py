"""What is trained: the settings, and the strengths of weight decay of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.common.results import Cell
from analyses.common.study import Options


@dataclass(frozen=True)
class Setting:
    """A net and how it is trained.

    ``decays``: the optimizer's ``weight_decay`` (2λ for SGD), in the order in which they are trained. ``warmup``: steps
    in which the rate rises to ``lr``. ``images``: of the training set, for settings on images.
    """

    net: str
    optimizer: str
    lr: float
    batch: int
    steps: int
    decays: tuple[float, ...]
    warmup: int = 0
    images: int = 5_000

    @property
    def text(self) -> bool:
        """Trained on text, not on images."""
        return self.net == "characters"


_ADAMW = (0.05, 10.0, 1.0, 5.0, 2.0, 0.5, 0.0)
SETTINGS = {
    "characters": Setting("characters", "adamw", 2e-3, 32, 600, (0.1, 100.0, 10.0, 30.0, 3.0, 1.0, 0.0)),
    "vit": Setting("vit", "adamw", 1e-3, 64, 600, _ADAMW),
    "vit-warmup": Setting("vit", "adamw", 1e-3, 64, 600, _ADAMW, warmup=120),
    "resnet18": Setting("resnet18", "sgd", 0.05, 64, 400, (5e-4, 0.5, 0.05, 5e-3, 0.0)),
}


def cells(part: str, asked: Options) -> Sequence[Cell]:
    """Of one setting, seed by seed."""
    decays = SETTINGS[part].decays
    return [{"setting": part, "weight_decay": decay, "seed": seed} for seed in range(asked.seeds) for decay in decays]
