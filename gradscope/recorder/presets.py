"""What each preset records, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradscope.recorder.cadence import Cadence, Every
from gradscope.recorder.kernels.statistics import QUANTITIES


@dataclass(frozen=True)
class Preset:
    """``quantities``: of the parameter table. ``cadences``: of the kinds that are not recorded in every row."""

    quantities: tuple[str, ...]
    activations: bool = False
    full: bool = False
    cadences: Mapping[str, Cadence] = field(default_factory=dict)


PRESETS = {
    "cheap": Preset(("gradient_l1", "gradient_norm", "weight_l1", "weight_norm")),
    "standard": Preset(QUANTITIES, activations=True, cadences={"activations": Every(10)}),
    "full": Preset(QUANTITIES, activations=True, full=True, cadences={"histograms": Every(50)}),
}
