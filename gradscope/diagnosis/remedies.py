"""What gradscope can do about a failure, or what the user can."""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis.looks import Look
from gradscope.quantities import Strength
from gradscope.types import Verdict


def for_learning(penalised: bool) -> str:
    """What a run that learns needs: the verdict is about the tolerance level, and not about the useful strength."""
    if not penalised:
        return "none needed: it learns"
    return (
        "none needed for learning: the penalty is below the tolerance level; whether a weaker or stronger one has a "
        "better metric is another question (gradscope tune)"
    )


def remedy(verdict: Verdict, escaped_before: bool, penalised: bool, holds: str = "") -> str:
    """One sentence. ``holds``: a strength that would hold, in words, or nothing."""
    if verdict is Verdict.COLLAPSED and escaped_before:
        return (
            "no delay will help: the run had left the baseline before the penalty crushed it, so the strength is "
            f"beyond what a delay can save; use a lower strength (gradscope search --delayed finds it){holds}"
        )
    if verdict is Verdict.COLLAPSED:
        return (
            "start again with the same strength and --schedule delayed:auto "
            f"(gradscope run does it), or find a strength that holds with gradscope search{holds}"
        )
    if verdict is Verdict.DIVERGED:
        return "not a matter of the penalty: lower the learning rate, clip gradients, check the data"
    if verdict is Verdict.VANISHING:
        return "no gradient reaches the weights even without a penalty: change the initialisation or the depth"
    cause = "without the penalty first" if penalised else "longer, or with another learning rate or initialisation"
    return f"nothing in the record points to the penalty: try the run {cause}"


def strength_that_holds(look: Look) -> float | None:
    """A strength that would hold: the one at which mean |∂L/∂w| and mean |λ∂Ω/∂w| were equal when the penalty came on.

    No formula predicts λ*; this one lies below it nearly always, by how much the benchmark says
    (analyses/failure_detection). None where it cannot be told, or where it is no lower than the strength that acted.
    """
    s = look.series
    on = np.flatnonzero(np.nan_to_num(s.strength[: look.n]) > 0)[: look.limits.window]
    on = on[np.isfinite(s.gradient[on]) & (s.penalty[on] > 0)]
    if not len(on):
        return None
    share = float(s.gradient[on].mean() / s.penalty[on].mean())
    return float(s.strength[on].max()) * share if 0 < share < 1 else None


def in_words(strength: float | None, penalty: str) -> str:
    """The end of a sentence with the strength and, for L2, the weight decay that equals it; empty for None."""
    if strength is None:
        return ""
    return (
        f"; λ ≈ {Strength(strength, penalty)}, at which both gradients were equal at the start, would be learned under"
    )
