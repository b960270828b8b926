"""Judge a trial beside the finished ones of its configuration.

The scale of the output's signal is the configuration's own, and so is the point from which a run no longer comes back.
Both are known where trials at other strengths have been seen to fail and to learn: what counts is how far the signal
of a trial lies from the middle between them, at the same row count; of a trial that was ended before, its last signal
stands. `siblings_model.json` is what `python -m analyses run failure_detection --only siblings` writes, and nothing
else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.diagnosis.series import Array, Series
from gradscope.run_info import Sibling

#: Trials of each kind that a trial is held against: the nearest in strength.
NEAREST = 3
#: The distance in ln λ at which the weight of one has fallen by a factor of e.
WIDTH = 0.15
#: Own log odds, and distances of a signal from the middle, count no further than this.
MOST_ODDS, FARTHEST = 8.0, 6.0


@dataclass(frozen=True)
class SiblingModel:
    """Logistic regression of a trial's failure on the judge's own log odds and its place beside its siblings.

    Attributes:
        intercept: of the log odds.
        odds: the weight of the judge's own.
        beside: the weight of the signal less the middle between the siblings.
        threshold: the probability from which a run whose weights shrink under its penalty is called collapsed.
    """

    intercept: float
    odds: float
    beside: float
    threshold: float

    def probability(self, own: float, beside: float) -> float:
        """Compute P(the run has failed at its horizon).

        Args:
            own: what the judge says without siblings, NaN where it says nothing.
            beside: the signal less the middle between its siblings.

        Returns:
            The probability; NaN where ``beside`` is.
        """
        odds, place = inputs(own, beside)
        return 1 / (1 + math.exp(-(self.intercept + self.odds * odds + self.beside * place)))


def inputs(own: float, beside: float) -> tuple[float, float]:
    """Return what the regression is given: the judge's own log odds and the place, within what was fitted."""
    p = 0.5 if math.isnan(own) else min(max(own, 1e-6), 1 - 1e-6)
    odds = math.log(p / (1 - p))
    return float(np.clip(odds, -MOST_ODDS, MOST_ODDS)), float(np.clip(beside, -FARTHEST, FARTHEST))


def level(series: Series) -> float:
    """Return ln of the last spread of the output over samples that is known, to four places; NaN for none."""
    known = np.flatnonzero(np.isfinite(series.signal))
    return round(math.log(series.signal[known[-1]] + 1e-12), 4) if len(known) else math.nan


def middle(strength: float, siblings: Iterable[Sibling], look: int) -> float:
    """Compute the middle between the signals of the nearest siblings that failed and that learned.

    Args:
        strength: from which distances count, in ln λ.
        siblings: finished trials.
        look: number of the look.

    Returns:
        The middle between both weighted means; NaN where one kind is missing.
    """
    near = nearest(strength, siblings)
    return sum(_mean(strength, [s for s in near if s.failed is kind], look) for kind in (True, False)) / 2


def nearest(strength: float, siblings: Iterable[Sibling]) -> tuple[Sibling, ...]:
    """Return the nearest siblings that failed, and the nearest that learned; of equal ones those seen first."""
    known = sorted(siblings, key=lambda s: abs(math.log(s.strength / strength)))
    return tuple(s for kind in (True, False) for s in [s for s in known if s.failed is kind][:NEAREST])


def _mean(strength: float, same: Sequence[Sibling], look: int) -> float:
    total = weights = 0.0
    for s in same:
        signal = s.signal[min(look, len(s.signal) - 1)] if s.signal else math.nan
        if math.isfinite(signal):
            weight = math.exp(-abs(math.log(s.strength / strength)) / WIDTH) + 1e-12
            total, weights = total + weight * signal, weights + weight
    return total / weights if weights else math.nan


def probability(look: RunPrefix, number: int, own: float, model: SiblingModel) -> float:
    """Compute P(the run has failed at its horizon) beside its siblings.

    Args:
        look: at the run.
        number: of the look.
        own: what the judge says without siblings.
        model: how they are weighed.

    Returns:
        The probability; NaN where the loss tells nothing, there are not both kinds of siblings, or the penalty did not
        act from the first row on as it does now, so that the same row is not the same moment.
    """
    if not (look.info.siblings and look.telling and alike(look.series.strength)):
        return float("nan")
    beside = level(look.series) - middle(float(look.series.strength[0]), look.info.siblings, number)
    return model.probability(own, beside)


def alike(strength: Array) -> bool:
    """Return whether a penalty acts alike in all rows, [N]."""
    return bool(strength[0] > 0 and (strength == strength[0]).all())


def said(siblings: Sequence[Sibling], probability: float) -> str:
    """Describe in words what a run is held against, and what that says."""
    at = sorted({s.strength for s in siblings})
    span = f"{at[0]:.4g}" if len(at) == 1 else f"{at[0]:.4g} … {at[-1]:.4g}"
    failed = sum(s.failed for s in siblings)
    trials = f"{len(siblings)} finished trials at λ = {span}, of which {failed} failed"
    return f"beside {trials}, such signals mean a failure with probability {probability:.3f}"


@cache
def shipped_siblings() -> SiblingModel:
    """Load the model that comes with gradscope."""
    return from_json(files("gradscope.diagnosis").joinpath("siblings_model.json").read_text(encoding="utf-8"))


def from_json(text: str) -> SiblingModel:
    """Read a model from the text of its file."""
    read = json.loads(text)
    return SiblingModel(*(float(read[name]) for name in ("intercept", "odds", "beside", "threshold")))
