"""Rules on runs that learn, and lose much of what they could: harm without failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.circumstances import DEAD, EVER, SHRUNK
from gradscope.diagnosis.loss_terms import TERMS
from gradscope.diagnosis.rules.columns import Columns, shown
from gradscope.diagnosis.rules.finding import Array, Symptom
from gradscope.run_info import RunInfo

#: A loss above this share of what it was some time ago is at rest.
REST = 0.85


def penalty_dominates(rows: Columns, info: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find a penalty that is a part of what moves the weights that counts, while the loss stays far above 0.

    Σ|λ∂Ω/∂w| over the sum of both gradients of what is penalised; where an adaptive optimizer decays beside its step,
    of the two steps, whatever the size of the gradient. Most of a gradient is noise, and the penalty pulls the same way
    in every step, so that a twentieth is much. Where the penalty is part of the loss that is minimised, it has to be
    ``height`` of the baseline high as well: without noise both gradients are as large as each other in the end, however
    weak the penalty is. The loss has left the baseline, which the user gave or the targets told, and is at rest: it was
    hardly higher at two thirds of the rows so far. Whether the metric gains what the loss pays is another question,
    which ``gradscope tune`` answers.
    """
    share, height = rows.series("penalty_share")[:, None], rows.series("penalty_height")[:, None]
    if not info.sure_baseline > 0 or not info.penalised.any():
        return []
    level = rows.series("loss_steady")[:, None] / info.sure_baseline
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (rows.series("loss_steady") / rows.series("loss_then"))[:, None] > REST
    there = (share > o["share"]) & (level > o["floor"]) & (level < 0.95) & rest
    there &= ~(height < o["height"] * info.sure_baseline)
    return [
        Symptom(
            kind="dominates",
            shows=shown(there, ~np.isnan(share + level)),
            values=share,
            layers=("",),
            text=f"the run learns, and the penalty holds its loss above {o['floor']:.0%} of the baseline",
            quantity="share of the penalty in both gradients",
            limit=o["share"],
            suggestion="see whether it is worth that: gradscope tune compares strengths by your metric, with none too",
        )
    ]


def undeclared_penalty(rows: Columns, info: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find matrices and gains of normalisations that lose most of their norm where no penalty is known to act.

    A term of the loss, or a line of the script, shrinks them, and nothing of it can be judged. Besides, a script that
    was seen to scale the weights after each of the first steps, or an optimizer with a decay of its own, once that has
    acted for an e-folding time: the loss may hold the weights against it. And a term of the loss, wherever its strength
    can be read off: between two layers with ReLU or the like between them, in float32.
    """
    times: Array = info.by_hand * (rows.series("step")[:, None] + 1)
    found = [
        Symptom(
            kind="by hand",
            shows=shown(times >= 1, times > 0),
            values=times,
            layers=("",),
            text=f"script or optimizer take {info.by_hand:.2g} of the weights at each step, beside any weight_decay",
            quantity="e-folding times",
            limit=1.0,
            suggestion="leave it to the optimizer (the weight_decay of AdamW, which the learning rate multiplies) or "
            "to regularize(), so that it can be judged",
        )
    ]
    for i, term in enumerate(TERMS):
        strength = rows.get(f"loss_term_{i}")
        if strength is not None:
            found.append(_in_the_loss(term, strength, info))
    if len(info.matrices) != len(info.parameters):
        return found
    free = (info.matrices | _gains(info)) & ~info.frozen & ~info.penalised
    text = "weights shrink, and no penalty is known that acts on them"
    advice = "declare a term of the loss (record(penalty=…)); leave what a script does to weight_decay or regularize()"
    return found + _shrunk(rows, info, o, free, "shrinks", text, advice)


def _in_the_loss(term: str, strength: Array, info: RunInfo) -> Symptom:
    return Symptom(
        kind=f"{term} in the loss",
        shows=np.where(strength > 0, 1.0, np.nan),
        values=strength,
        layers=info.parameters,
        text=f"the loss holds a term {term} that is not declared, as its gradients tell",
        quantity="λ",
        limit=0.0,
        suggestion="declare it (record(penalty=…)) or leave it to weight_decay or regularize(): then it can be judged",
        at_once=True,
    )


def _gains(info: RunInfo) -> NDArray[np.bool_]:
    """Return which parameters are gains of normalisations, [P]."""
    norm = [name.rpartition(".")[0] in info.normalisations for name in info.parameters]
    return np.array([n and name.endswith("weight") for n, name in zip(norm, info.parameters, strict=True)], dtype=bool)


def decayed_gains(rows: Columns, info: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find gains of normalisations that a penalty has taken down: they scale what the layers after them see."""
    text = "a penalty has taken gains of normalisation down"
    advice = "exclude gains and biases from it: a parameter group with weight_decay=0, as regularize does"
    return _shrunk(rows, info, o, _gains(info) & info.penalised, "decayed", text, advice) if info.module_types else []


def _shrunk(
    rows: Columns, info: RunInfo, o: Mapping[str, float], which: NDArray[np.bool_], kind: str, text: str, advice: str
) -> list[Symptom]:
    """Find those of these parameters, [P], whose norm is below a share of its largest."""
    kept = rows.get("weight_kept")
    if kept is None:
        return []
    return [
        Symptom(
            kind=kind,
            shows=shown(kept < o["kept"], ~np.isnan(kept) & which),
            values=kept,
            layers=info.parameters,
            text=text,
            quantity="norm over its largest",
            limit=o["kept"],
            suggestion=advice,
        )
    ]


def lost_input(rows: Columns, info: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find modules whose output once depended on the input and hardly does any more, as in a posterior collapse.

    Not where matrices are crushed, by a penalty or by what is not declared, nor where all units of a module are dead:
    other rules and the verdict tell that.
    """
    kept, norm = rows.get("signal_kept"), rows.get("weight_norm")
    if kept is None:
        return []
    crushed: NDArray[Any] = np.zeros((len(rows), 1), dtype=bool)
    if norm is not None and len(info.matrices):
        pushed = rows.crushed(norm) & info.penalised & info.matrices
        crushed = np.asarray(
            (pushed | (info.matrices & (rows.like("weight_kept", norm) < SHRUNK))).any(1, keepdims=True)
        )
    dead = (np.nan_to_num(rows.like("activation_zero_fraction", kept)) >= DEAD).any(1, keepdims=True)
    never = rows.like("signal_was", kept) < EVER
    scales = np.array([name in info.normalisations for name in info.modules], dtype=bool)  # as large as their gain
    never |= scales if len(scales) == kept.shape[1] else False
    return [
        Symptom(
            kind="lost",
            shows=shown(kept < o["kept"], ~np.isnan(kept) & ~crushed & ~dead & ~never),
            values=kept,
            layers=info.modules,
            text="the output hardly depends on the input any more",
            quantity="spread over samples, of its largest",
            limit=o["kept"],
            suggestion="weaken what acts on these outputs (a KL term, a penalty on a code), or bring it in later",
        )
    ]
