"""Calibrated probability that a run fails: one small logistic regression a phase, read from a shipped file.

`failure_model.json` is what `python -m analyses run failure_detection --only fit` writes, and nothing else; the
benchmark says how well it is calibrated on families it has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.diagnosis.signals import SIGNALS, available, phase, signals


@dataclass(frozen=True)
class Model:
    """Logistic regressions by availability and phase.

    Attributes:
        table: availability → phase → signal → [low, high, mean, spread, weight], and ``intercept``.
        threshold: the probability from which a run whose weights shrink under its penalty is called collapsed.
    """

    table: Mapping[str, Mapping[str, Mapping[str, Any]]]
    threshold: float

    def probability(self, available: frozenset[str], phase: str, values: Mapping[str, float]) -> float:
        """Compute P(the run has failed at its horizon) from the signals of one look; a missing signal says nothing."""
        fitted = self.table[name_of(available)].get(phase)
        if fitted is None:
            return float("nan")
        total = float(fitted["intercept"])
        for name, (low, high, mean, spread, weight) in fitted["signals"].items():
            value = values.get(name, np.nan)
            if np.isfinite(value):
                total += weight * (min(max(value, low), high) - mean) / spread
        return float(1 / (1 + np.exp(-np.clip(total, -30, 30))))

    def of(self, look: RunPrefix) -> float:
        """Compute P(the run has failed at its horizon) for a look at a run."""
        return self.probability(available(look), phase(look), signals(look))


def name_of(available: frozenset[str]) -> str:
    """Write a set of needs that are met as the file does."""
    return "+".join(sorted(available)) or "gradients"


def used(available: frozenset[str]) -> list[str]:
    """List the signals that are available with these needs met."""
    return [name for name, need in SIGNALS.items() if not need or need in available]


@cache
def shipped() -> Model:
    """Load the model that comes with gradscope."""
    return from_json(files("gradscope.diagnosis").joinpath("failure_model.json").read_text(encoding="utf-8"))


def from_json(text: str) -> Model:
    """Read a model from the text of its file."""
    read = json.loads(text)
    return Model(read["table"], float(read["threshold"]))
