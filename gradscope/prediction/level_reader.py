"""Read the level off a probe: how many decades its strength lies above λ*, and how wrong that usually is."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from gradscope.prediction.features import features, free_features
from gradscope.prediction.forest import Forest
from gradscope.prediction.rows import Array, Probe

FILE, DELAYED = "reader.npz", "delayed_reader.npz"
#: Within so many decades of the level the reader that learned from near probes alone has the larger say.
NEAR_DECADES, NEAR_WEIGHT = 0.4, 0.7


@dataclass(frozen=True)
class Reader:
    """Regression of one kind of penalty, from the features of a probe to the distance from the level.

    Attributes:
        whole: learned from all probes.
        near: learned from those near the level.
        first: log₁₀ λ* from a run without a penalty.
        errors: what 95 % of the errors of held-out families stay below, in decades, by the number of probes.
        reach: λ·rate·gain of the strengths it has learned from, the ends.
    """

    whole: Forest
    near: Forest
    first: Forest
    errors: Mapping[int, float]
    reach: tuple[float, float]

    def distance(self, probe: Probe) -> float:
        """Compute û = log₁₀(λ/λ*), as far as this probe tells."""
        return self.read(features(probe))

    def read(self, x: Array) -> float:
        """Compute û from the features of a probe, [F]."""
        found = self.whole.predict(x)
        return found if abs(found) > NEAR_DECADES else (1 - NEAR_WEIGHT) * found + NEAR_WEIGHT * self.near.predict(x)

    def begin(self, free: Probe) -> float:
        """Compute log₁₀ of the strength to try first, from a run without a penalty."""
        return self.guess(free, free_features(free))

    def guess(self, free: Probe, x: Array) -> float:
        """Compute log₁₀ of the strength to try first from the features of a run without a penalty, [F]."""
        return self.first.predict(x) - _scale(free)

    def error(self, probes: int) -> float:
        """Return the half-width of the 95 % interval after so many probes, in decades."""
        known = [count for count in self.errors if count <= probes]
        return self.errors[max(known, default=min(self.errors))]


def _scale(free: Probe) -> float:
    """Return log₁₀ of the learning rate under AdamW, whose decay has it as a factor of λ; 0 elsewhere."""
    return float(np.log10(np.nanmean(free.rate))) if free.adaptive and free.kind == "direct" else 0.0


def scaled(strength: float, free: Probe) -> float:
    """Compute what `Reader.first` is taught: log₁₀ λ, with the learning rate under AdamW."""
    return float(np.log10(strength)) + _scale(free)


def readers(arrays: Mapping[str, Any]) -> dict[str, Reader]:
    """Build the readers by kind, from the arrays of the shipped file."""
    facts = json.loads(str(arrays["facts"]))
    found = {}
    for kind, told in facts["kinds"].items():
        whole, near, first = (Forest.from_arrays(arrays, f"{kind}.{part}") for part in ("whole", "near", "first"))
        errors = {int(count): float(error) for count, error in told["errors"].items()}
        found[kind] = Reader(whole, near, first, errors, (told["reach"][0], told["reach"][1]))
    return found


@functools.cache
def shipped(name: str = FILE) -> dict[str, Reader]:
    """Load the readers of this gradscope, made by ``python -m analyses run prediction --only fit``.

    Args:
        name: ``FILE`` for probes from the start, ``DELAYED`` for branches of a learned net.

    Returns:
        The readers by kind.
    """
    with resources.files("gradscope.prediction").joinpath(name).open("rb") as file, np.load(file) as arrays:
        return readers(dict(arrays))
