"""Presets: what each records, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradscope.recorder.cadence import BySize, Cadence, DenseStart, Every
from gradscope.recorder.kernels.statistics import QUANTITIES


@dataclass(frozen=True)
class Preset:
    """What is recorded.

    Attributes:
        quantities: of the parameter table.
        activations: record activation scales.
        full: record updates, histograms and gradients of activations, too.
        cadences: of the kinds that are not recorded in every row.
    """

    quantities: tuple[str, ...]
    activations: bool = False
    full: bool = False
    cadences: Mapping[str, Cadence | BySize] = field(default_factory=dict)


#: Of more tensors than this (a transformer's, a ResNet's) `full` samples what takes a call for each: every 8th step,
#: after the first hundred, in which failures begin.
MANY = 48
SAMPLED = BySize(MANY, Every(1), DenseStart(100, 8))

PRESETS = {
    "cheap": Preset(("gradient_l1", "gradient_norm", "weight_l1", "weight_norm")),
    "standard": Preset(QUANTITIES, activations=True, cadences={"activations": Every(10)}),
    "full": Preset(
        QUANTITIES,
        activations=True,
        full=True,
        cadences={"histograms": Every(50), "activations": SAMPLED, "updates": SAMPLED},
    ),
}
