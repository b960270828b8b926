"""Weigh penalties as causes of a failure: the one that is recorded, and what acts like one."""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.cause import PENALTY, UNDECLARED, Cause
from gradscope.diagnosis.circumstances import LARGE, Facts
from gradscope.diagnosis.run_prefix import RunPrefix

#: E-folding times before which a penalty has done nothing.
EARLY = 0.25
#: The same, where units went off and steps were too large: a penalty that had taken half of one by then is a rival.
WENT_OFF = 0.5
#: What to do about what is not declared, beside lowering it.
AND_DECLARE = (
    "and declare the term (record(penalty=…)), or leave a line of the script to weight_decay or regularize(), so that "
    "it can be judged"
)


def acted(look: RunPrefix, step: float | None = None) -> float:
    """Return the e-folding times that the penalty has acted, up to a step."""
    n = look.n if step is None else int(np.searchsorted(look.series.step[: look.n], step, side="right"))
    return measures.e_foldings(look.series, n) if n else 0.0


def went_off_early(look: RunPrefix, facts: Facts) -> bool:
    """Return whether units went off before the penalty had acted long enough to be why.

    That is a quarter of an e-folding time, and half of one where steps that were too large are a rival.
    """
    limit = WENT_OFF if facts.moves_clipped > LARGE or facts.large_inputs else EARLY
    return acted(look, min(facts.off.values())) < limit


def penalty(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh the penalty that is recorded."""
    s, n = look.series, look.n
    if not look.info.penalised.any() or not np.nan_to_num(s.strength[:n]).any():
        return None
    times = acted(look)
    start = measures.shrinking_since(s, n)
    shrunk = float(np.nan_to_num(measures.fallen(s, start, n, look.limits.window)[0], nan=0.0, posinf=9.0, neginf=0.0))
    said = [f"it acted for {times:.2g} e-folding times", f"the weights fell to {np.exp(-shrunk):.2g} of what they were"]
    remedy = "use a lower strength, or let the same one come on late"
    if times < EARLY:
        return Cause(PENALTY, 0.05, [], [f"it acted for {times:.2g} e-folding times: too little to matter"], remedy)
    if facts.off and went_off_early(look, facts):
        return Cause(PENALTY, 0.2, said, ["no gradient passed any more before it had acted"], remedy)
    if shrunk >= 0.5:
        return Cause(PENALTY, 0.8, said, [], remedy)
    return Cause(
        PENALTY, 0.4 if times >= 1 and shrunk > 0 else 0.2, said[:1], [f"{said[1]}: they did not collapse"], remedy
    )


def undeclared(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh what shrinks the weights and is not recorded as a penalty."""
    times = look.info.by_hand * float(look.series.step[look.n - 1] + 1)
    if times >= 1:
        said = [
            f"script or optimizer take {look.info.by_hand:.2g} of the weights at each step, beside any weight_decay: "
            f"that has acted for {times:.2g} e-folding times"
        ]
        return Cause(UNDECLARED, 0.9 if times >= 3 else 0.6, said, [], "lower it, or leave it to the optimizer (the "
                     "weight_decay of AdamW, which is multiplied by the learning rate)")  # fmt: skip
    if not facts.shrunk and not facts.terms:
        return None
    said, weight = [], 0.0
    if facts.shrunk:
        name, left = min(facts.shrunk.items(), key=lambda item: item[1])
        more = f", and {len(facts.shrunk) - 1} matrices more" if len(facts.shrunk) > 1 else ""
        said.append(f"{name} fell to {left:.2g} of its largest norm{more}, and no penalty that is known acts there")
        free = look.info.matrices & ~look.info.penalised & ~look.info.frozen
        weight = 0.85 if len(facts.shrunk) > 0.5 * free.sum() else 0.6
    if not facts.terms:
        return Cause(UNDECLARED, weight, said, [], "look for a term of the loss or a line of the script that shrinks "
                     f"the weights: lower it, {AND_DECLARE}")  # fmt: skip
    term = max(facts.terms, key=lambda one: one.share)
    said.append(
        f"the loss holds a term {term.term} with λ = {term.strength:.3g} (read off the gradients of "
        f"{' and '.join(term.parameters)}), {term.share:.0%} of the gradient there"
    )
    weight = max(weight, 0.6 if term.share > 0.5 else 0.2)
    return Cause(UNDECLARED, weight, said, [], f"look for a term of the loss, {term.term} with λ = "
                 f"{term.strength:.3g}: lower it, {AND_DECLARE}")  # fmt: skip
