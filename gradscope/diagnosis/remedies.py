"""Remedies: what gradscope can do about a failure, or what the user can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradscope.diagnosis.cause import EXPERIMENT, PENALTY, UNKNOWN, Cause, told_apart
from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.quantities import Strength
from gradscope.types import Verdict

#: How a remedy begins where the run had all that a delay can give.
NO_DELAY = "no delay will help"


def for_learning(penalised: bool) -> str:
    """Return what a run that learns needs: the verdict is about the tolerance level, not about the useful strength."""
    if not penalised:
        return "none needed: it learns"
    return (
        "none needed for learning: the penalty is below the tolerance level; whether a weaker or stronger one has a "
        "better metric is another question (gradscope tune)"
    )


def remedy(verdict: Verdict, escaped_before: bool, causes: Sequence[Cause], begin: str = "") -> str:
    """Write one sentence that follows from the best founded cause.

    Where the record does not tell the penalty from another cause, the remedy is the experiment that does.

    Args:
        verdict: of the judge.
        escaped_before: the run was in its active phase before it failed.
        causes: the best founded first.
        begin: a strength to begin with, in words, or nothing.

    Returns:
        What to do.
    """
    if verdict is Verdict.DIVERGED and causes:
        return f"{causes[0].name} first: {causes[0].remedy}"
    if verdict is Verdict.DIVERGED:
        return "not a matter of the penalty: lower the learning rate, clip gradients, check the data"
    first = causes[0] if causes else None
    names = [cause.name for cause in causes]
    if first is None or first.name == UNKNOWN:
        if PENALTY in names or verdict is Verdict.COLLAPSED:
            return EXPERIMENT
        if verdict is Verdict.VANISHING:
            return "hardly any gradient reaches the weights: look at initialisation, depth and learning rate"
        return "nothing in the record points to a cause: look at data and labels, train longer, try another rate"
    if first.name != PENALTY:
        return f"{first.name} first: {first.remedy}" + (f"; then {EXPERIMENT}" if _open(causes) else "")
    if verdict is not Verdict.COLLAPSED or _open(causes):
        return EXPERIMENT
    if escaped_before:
        return (
            f"{NO_DELAY}: the run was in its active phase before the penalty crushed it, so the strength is "
            f"beyond what a delay can save; use a lower strength (gradscope search --delayed finds it){begin}"
        )
    return (
        "start again with the same strength and --schedule delayed:auto "
        f"(gradscope run does it), or find a strength that holds with gradscope search{begin}"
    )


def _open(causes: Sequence[Cause]) -> bool:
    """Return whether the record leaves open if it is the penalty."""
    return PENALTY in [cause.name for cause in causes[:2]] and not told_apart(list(causes))


def strength_that_holds(look: RunPrefix) -> float | None:
    """Compute the strength at which mean |∂L/∂w| and mean |λ∂Ω/∂w| were equal when the penalty came on.

    No formula predicts λ*; where the penalty goes through the gradient this strength lies below it nearly always, by
    how much the benchmark says (analyses/failure_detection).

    Returns:
        The strength; None where it cannot be told, where it is no lower than the strength that acted, and for decoupled
        decay under an adaptive optimizer: there it is too low a hundred times over.
    """
    s = look.series
    if any(adaptive and beside for adaptive, beside in zip(look.info.adaptive, look.info.beside, strict=True)):
        return None
    on = np.flatnonzero(np.nan_to_num(s.strength[: look.n]) > 0)[: look.limits.window]
    on = on[np.isfinite(s.gradient[on]) & (s.penalty[on] > 0)]
    if not len(on):
        return None
    share = float(s.gradient[on].mean() / s.penalty[on].mean())
    return float(s.strength[on].max()) * share if 0 < share < 1 else None


def in_words(strength: float | None, penalty: str) -> str:
    """Write the end of a sentence with the strength and, for L2, the weight decay that equals it; empty for None."""
    if strength is None:
        return ""
    return (
        f"; a strength to begin with is about {Strength(strength, penalty)}, at which both gradients were equal at the "
        "start: lower than need be, as a rule"
    )
