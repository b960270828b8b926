"""Read the level off a run that is recorded already: its first rows are a probe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.prediction.ask_tell import INVARIANT, ROWS, SHORTEST, Prediction, rows_needed
from gradscope.prediction.level_reader import shipped
from gradscope.prediction.rows import Probe, invariant_share, probe_of
from gradscope.quantities import Strength
from gradscope.store.record import Record
from gradscope.types import InputError

#: Half the 95 % interval of one reading of a run that fails, in decades (analyses/prediction/alone.md).
ALONE = 0.6
#: A reading of more decades above the level than this says only that it lies that far below.
FAR = 1.2
#: A strength that reads as so many decades above its level is warned of: of 739 probes below their level none did
#: (analyses/prediction/warned.md).
BEYOND = 0.6

NO_PENALTY = "no penalty of one strength acted from the start"
LATE_ROWS = f"the record does not begin with {SHORTEST} steps, each a row"
FEW_ACTED = f"fewer than {SHORTEST} of its first steps were taken; a GradScaler skipped the others"


def level_of(record: Record) -> Prediction:
    """Predict the tolerance level from the first rows of a run under a penalty from the start.

    For SGD and AdamW, whose readings of failing runs alone have been measured. One reading is far less sharp than what
    `suggest_strength` says after three.

    Returns:
        The level, or why there is none.
    """
    try:
        return _read(record)
    except InputError as error:
        return Prediction(False, str(error))


def _read(record: Record) -> Prediction:
    strength = record.strength.value or 0.0
    if not strength or record.schedule not in ("", "constant"):
        return Prediction(False, NO_PENALTY)
    first = record.steps[:ROWS]
    if not begins(first):
        return Prediction(False, LATE_ROWS)
    probe = probe_of(record, record.penalty, rows=len(first)).acted(record.column("skipped", slice(len(first))))
    if len(probe.step) < SHORTEST:
        return Prediction(False, FEW_ACTED)
    probe = probe.first(rows_needed(probe))
    if (why := unreadable(probe, invariant_share(record))) is not None:
        return Prediction(False, why)
    distance = shipped()[probe.kind].distance(probe)
    if distance > FAR:
        return Prediction(False, f"the level lies more than {10**FAR:.0f} times below its strength")
    at = math.log10(strength) - distance
    reason = f"one reading, of its first {len(probe.step)} steps"
    return Prediction(True, reason, 10**at, 10 ** (at - ALONE), 10 ** (at + ALONE))


def begins(steps: NDArray[Any]) -> bool:
    """Return whether these are enough rows from the first step on, each step a row."""
    return len(steps) >= SHORTEST and bool(np.array_equal(steps, np.arange(len(steps))))


def unreadable(probe: Probe, invariant: float) -> str | None:
    """Tell why the first rows of a run under a penalty say nothing of its level.

    Args:
        probe: these rows.
        invariant: the share of ‖w‖² in weights whose scale the loss does not depend on.

    Returns:
        The reason; None where they say something.
    """
    if probe.kind != "direct":
        return f"what one run of {probe.kind} tells of its level has not been measured"
    if not (math.isfinite(probe.baseline) and probe.baseline > 0):
        return "its baseline loss is not known"
    if not (np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all()):
        return "its first rows are not finite, or hold no loss at every step"
    if invariant >= INVARIANT:
        return "most of ‖w‖² is in weights whose scale the loss does not depend on"
    return None


def warning_of(probe: Probe) -> str | None:
    """Tell in a sentence that a strength lies far beyond the level that its first rows read.

    Args:
        probe: rows that are readable.

    Returns:
        The sentence; None where the reading is not `BEYOND` the level.
    """
    distance = shipped()[probe.kind].distance(probe)
    if distance <= BEYOND:
        return None
    given, rows = Strength(probe.strength, probe.penalty), f"its first {len(probe.step)} steps read"
    if distance > FAR:
        return (
            f"{given} lies more than {10**FAR:.0f} times beyond the tolerance level that {rows}: nothing will be "
            f"learned with it from the start; gradscope suggest says the level more sharply"
        )
    low, at, high = (probe.strength / 10 ** (distance + off) for off in (ALONE, 0.0, -ALONE))
    scale = 1.0 if given.weight_decay is None else 2.0
    return (
        f"{given} lies {10**distance:.2g} times beyond the tolerance level that {rows}, "
        f"{Strength(at, probe.penalty)} (95 % interval {scale * low:.2g} … {scale * high:.2g}): nothing will be "
        f"learned with it from the start; gradscope suggest says the level more sharply"
    )
