"""Probes whose rows are made up, and a reader that knows their level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradscope.prediction.level_reader import Reader, shipped
from gradscope.prediction.rows import Probe


def a_probe(strength: float = 0.05, rows: int = 40, falls: float = 0.03, **more: Any) -> Probe:
    """Three matrices, a loss that falls by this share a step."""
    random = np.random.default_rng(1)
    table = {name: random.uniform(0.5, 2, (rows, 3)) for name in ("gradient", "weight", "gradient_size", "weight_size")}
    base = {
        "step": np.arange(rows, dtype=float), "loss": 2.3 * (1 - falls) ** np.arange(rows), "dot": -table["weight"] / 9,
        "numel": np.array([640.0, 4096.0, 640.0]), "rate": np.full(rows, 0.03), "strength": strength, "penalty": "l2",
        "momentum": 0.9, "adaptive": False, "beside": False, "baseline": 2.3,
    }  # fmt: skip
    return Probe(**(table | base | more))


class Knowing(Reader):
    """A reader that knows the level, but for a share of the distance."""

    def __init__(self, level: float, wrong: float = 0.0) -> None:
        empty = shipped()["direct"]
        super().__init__(empty.whole, empty.near, empty.first, {1: 0.3, 2: 0.2, 3: 0.1}, (1e-4, 10.0))
        object.__setattr__(self, "level", level)
        object.__setattr__(self, "wrong", wrong)

    def distance(self, probe: Probe) -> float:
        return math.log10(probe.strength / self.level) * (1 - self.wrong)  # type: ignore[attr-defined]

    def begin(self, free: Probe) -> float:
        return -2.0
