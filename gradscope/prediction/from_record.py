"""Read the level off a run that is recorded already: its first rows are a probe."""

from __future__ import annotations

import math

import numpy as np

from gradscope.prediction.ask_tell import INVARIANT, ROWS, SHORTEST, Prediction, rows_needed
from gradscope.prediction.level_reader import shipped
from gradscope.prediction.rows import invariant_share, probe_of
from gradscope.store.record import Record
from gradscope.types import InputError

#: Half the 95 % interval of one reading of a run that fails, in decades (analyses/prediction/alone.md).
ALONE = 0.6
#: A reading of more decades above the level than this says only that it lies that far below.
FAR = 1.2


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
        return Prediction(False, "no penalty of one strength acted from the start")
    first = record.steps[:ROWS]
    if len(first) < SHORTEST or not np.array_equal(first, np.arange(len(first))):
        return Prediction(False, f"the record does not begin with {SHORTEST} steps, each a row")
    probe = probe_of(record, record.penalty, rows=len(first))
    probe = probe.first(rows_needed(probe))
    if probe.kind != "direct":
        return Prediction(False, f"what one run of {probe.kind} tells of its level has not been measured")
    if not (math.isfinite(probe.baseline) and probe.baseline > 0):
        return Prediction(False, "its baseline loss is not known")
    if not (np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all()):
        return Prediction(False, "its first rows are not finite, or hold no loss at every step")
    if invariant_share(record) >= INVARIANT:
        return Prediction(False, "most of ‖w‖² is in weights whose scale the loss does not depend on")
    distance = shipped()[probe.kind].distance(probe)
    if distance > FAR:
        return Prediction(False, f"the level lies more than {10**FAR:.0f} times below its strength")
    at = math.log10(strength) - distance
    reason = f"one reading, of its first {len(probe.step)} steps"
    return Prediction(True, reason, 10**at, 10 ** (at - ALONE), 10 ** (at + ALONE))
