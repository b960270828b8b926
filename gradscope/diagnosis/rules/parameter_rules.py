"""Rules on weights, their gradients and their updates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.rules.columns import Columns, shown
from gradscope.diagnosis.rules.finding import Array, Symptom
from gradscope.run_info import RunInfo

#: Change of a mean or a norm, as a share of it, that float32 shows beyond doubt (its resolution is 6e-8).
VISIBLE = 1e-6


def _rate(rows: Columns, facts: RunInfo) -> Array:
    """Return the learning rate of each parameter, [N, P]."""
    rate = rows.get("learning_rate")
    return np.full((len(rows), len(facts.parameters)), np.nan) if rate is None else facts.of_groups(rate)


def _learned(rows: Columns, o: Mapping[str, float]) -> NDArray[np.bool_]:
    """Return rows whose loss has all but vanished, [N, 1]: then gradients may vanish too."""
    return np.asarray(np.nan_to_num(rows.progress, nan=1.0) < o["learned"])


def update_ratio(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find weights with more than one dimension whose mean |Δw| / mean |w| is far above or below the usual 1e-3.

    Where updates were not recorded (``preset="full"`` does), bounds stand in for SGD: lr · mean |∂L/∂w| from below,
    1/(1 − momentum) of that from above. A small ratio counts only while the loss has not fallen, for updates shrink at
    the end of a good training too, and where the penalty has not crushed the weights, which the verdict tells.
    """
    weight = rows.get("weight_mean_abs")
    if weight is None:
        return []
    update = rows.get("update_mean_abs")
    least = most = update
    if least is None or most is None:
        gradient = rows.like("loss_gradient_mean_abs", weight)
        least = _rate(rows, facts) * gradient * np.where(facts.of_groups(np.array(facts.adaptive)) > 0, np.nan, 1.0)
        most = least / (1 - np.minimum(facts.of_groups(np.array(facts.momentum)), 0.9999))
    usable = facts.matrices & ~facts.frozen & rows.stepped & (weight > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = least / weight, most / weight
    exact = update is not None
    still = rows.progress > 0.95
    moving = (np.nan_to_num(_rate(rows, facts), nan=1.0) > 0) & ~rows.crushed(weight)
    return [
        Symptom(
            kind="large",
            shows=shown(low > o["large"], usable & ~np.isnan(low)),
            values=low,
            layers=facts.parameters,
            text="updates are large beside the weights",
            quantity="update/weight" if exact else "update/weight at least",
            limit=o["large"],
            suggestion="lower the learning rate of these layers, warm it up, or clip gradients",
        ),
        Symptom(
            kind="small",
            shows=shown((high < o["small"]) & (high > 0) & still, usable & moving & ~np.isnan(high + rows.progress)),
            values=high,
            layers=facts.parameters,
            text="updates are tiny beside the weights, and the loss stays where it began",
            quantity="update/weight" if exact else "update/weight at most",
            limit=o["small"],
            suggestion="raise the learning rate, or look for what keeps the gradients small (initialisation, depth)",
        ),
    ]


def exploding_tensor(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find gradients or weights that are not finite, and weights many times as large as they began."""
    norm = rows.get("loss_gradient_norm")
    weight = rows.get("weight_norm")
    count = rows.get("nonfinite_count")
    like = norm if norm is not None else weight
    if like is None:
        return []
    bad = np.nan_to_num(count) if count is not None else np.zeros(like.shape)
    for values in (norm, weight):
        bad = bad if values is None else np.maximum(bad, np.isinf(values))
    found = [
        Symptom(
            kind="not finite",
            shows=shown(bad > 0, np.broadcast_to(rows.stepped, bad.shape)),
            values=bad,
            layers=facts.parameters,
            text="gradients or weights are not finite",
            quantity="entries",
            limit=0.0,
            suggestion="lower the learning rate, clip gradients, look for log(0), 0/0 and bad inputs at that step",
        )
    ]
    growth = rows.get("weight_growth")
    if growth is not None:
        found.append(
            Symptom(
                kind="growing",
                shows=shown(growth > o["growth"], ~np.isnan(growth)),
                values=growth,
                layers=facts.parameters,
                text="weights have grown beyond any use",
                quantity="times as large as in the first rows",
                limit=o["growth"],
                suggestion="lower the learning rate, warm it up, or clip gradients",
            )
        )
    return found


def unchanged_parameters(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find weights that are trained, under a learning rate above 0, and do not change.

    Told by the recorded updates (``preset="full"``), else by mean, norm and maximum of |w| that are equal to the last
    bit from row to row, where either there is no gradient or the update would have to be visible in them. A gradient of
    exactly 0 is the matter of `all_zero_gradients`.
    """
    weight = rows.get("weight_mean_abs")
    if weight is None:
        return []
    update, rate = rows.get("update_mean_abs"), _rate(rows, facts)
    gradient = rows.like("loss_gradient_mean_abs", weight)
    if update is not None:
        still, known = update == 0, ~np.isnan(update)
    else:
        same = rows.like("weight_same", weight)
        size = np.where(facts.of_groups(np.array(facts.adaptive)) > 0, 1.0, gradient)
        with np.errstate(divide="ignore", invalid="ignore"):
            visible = rate * size / weight / np.sqrt(np.maximum(facts.numel, 1.0)) >= VISIBLE
        still, known = (same == 1) & (np.isnan(gradient) | visible), ~np.isnan(same)
    usable = (
        known
        & (gradient != 0)
        & ~facts.frozen
        & rows.stepped
        & (weight > 0)
        & (np.nan_to_num(rate) > 0)
        & ~_learned(rows, o)
    )
    return [
        Symptom(
            kind="unchanged",
            shows=shown(still, usable),
            values=np.where(np.isnan(gradient), 0.0, gradient),
            layers=facts.parameters,
            text="weights do not change",
            quantity="mean |gradient|",
            limit=0.0,
            suggestion=(
                "see that the forward pass uses them, that nothing detaches their output, and that the learning "
                "rate is not below the resolution of their number format; if it is meant, set requires_grad=False"
            ),
        )
    ]


def all_zero_gradients(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find tensors whose loss gradient is exactly 0 in every entry, while there is a loss left.

    Not where a penalty has crushed the weights, which the verdict tells.
    """
    largest = rows.get("loss_gradient_max_abs")
    gradient = largest if largest is not None else rows.get("loss_gradient_mean_abs")
    if gradient is None:
        return []
    weight = rows.like("weight_mean_abs", gradient)
    crushed = (rows.crushed(weight) & facts.penalised & facts.matrices).any(1, keepdims=True)
    usable = ~np.isnan(gradient) & ~facts.frozen & rows.stepped & ~_learned(rows, o) & ~crushed
    return [
        Symptom(
            kind="zero",
            shows=shown(gradient == 0, usable),
            values=gradient,
            layers=facts.parameters,
            text="the loss gradient is exactly 0",
            quantity="max |gradient|",
            limit=0.0,
            suggestion=(
                "look for dead units or a saturated function after these layers, weights that are all 0, gradients "
                "below the smallest number of half precision (scale the loss), or a mask over the whole tensor"
            ),
        )
    ]
