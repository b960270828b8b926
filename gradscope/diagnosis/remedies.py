"""Remedies: what gradscope can do about a failure, or what the user can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.diagnosis.cause import EXPERIMENT, PENALTY, UNKNOWN, Cause, told_apart
from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.quantities import Strength
from gradscope.types import Verdict

#: Weights of a cause from which it is named where the run is undecided, and without a "perhaps".
FOUNDED, SURE = 0.6, 0.85

#: Times the mean |w| of the start that weights may reach under the weight_decay that is named for AdamW.
ROOM = 2

#: How a remedy begins where the run had all that a delay can give.
NO_DELAY = "no delay will help"
#: What a delay can do, where it may do something (decision 137).
DELAY = (
    "with --schedule delayed:auto (gradscope run does it) the same strength may hold, the nearer it is to the "
    "tolerance level the likelier"
)


def for_learning(penalised: bool) -> str:
    """Return what a run that learns needs: one run tells neither the tolerance level nor the useful strength."""
    if not penalised:
        return "none needed: it learns"
    return (
        "none needed for learning: this run learns under its penalty; whether a weaker or stronger one has a better "
        "metric is another question (gradscope tune)"
    )


def likely(causes: Sequence[Cause]) -> tuple[list[str], str]:
    """Name what would have to be mended first in a run of which it is not clear whether it learns.

    Args:
        causes: the best founded first.

    Returns:
        Evidence and remedy; nothing where no cause but perhaps the penalty is founded.
    """
    first = causes[0]
    if first.name in (PENALTY, UNKNOWN) or first.weight < FOUNDED:
        return [], ""
    how = first.name if first.weight >= SURE else f"perhaps {first.name}"
    return [f"{first.name}: {'; '.join(first.evidence)}"], f"{how} first: {first.remedy}"


def remedy(verdict: Verdict, delay_spent: bool, causes: Sequence[Cause], begin: str = "", bound: str = "") -> str:
    """Write one sentence that follows from the best founded cause.

    Where the record does not tell the penalty from another cause, the remedy is the experiment that does.

    Args:
        verdict: of the judge.
        delay_spent: the run had all that a delay can give before it failed.
        causes: the best founded first.
        begin: a strength to begin with, in words, or nothing.
        bound: why the weights cannot be large enough under this strength, however late it comes on, or nothing.

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
    if delay_spent:
        return (
            f"{NO_DELAY}: the run was in its active phase before the penalty crushed it, so the strength is "
            f"beyond what a delay can save; use a lower strength (gradscope search --delayed finds it){begin}"
        )
    if bound:
        return f"{NO_DELAY}: {bound}; use a lower strength (gradscope search finds it){begin}"
    return f"use a lower strength (gradscope search finds the largest that holds){begin}; {DELAY}"


def _open(causes: Sequence[Cause]) -> bool:
    """Return whether the record leaves open if it is the penalty."""
    return PENALTY in [cause.name for cause in causes[:2]] and not told_apart(list(causes))


@dataclass(frozen=True)
class Lower:
    """A strength to begin with, below the one that failed.

    Attributes:
        strength: λ.
        why: how it was chosen.
        bound: why a delay cannot help, or nothing.
    """

    strength: float
    why: str
    bound: str = ""

    def words(self, penalty: str) -> str:
        """Write the end of a sentence with the strength and, for L2, the weight decay that equals it."""
        return f"; a strength to begin with is about {Strength(self.strength, penalty)}, {self.why}"


def lower(look: RunPrefix) -> Lower | None:
    """Find a strength to begin with.

    No formula predicts λ*. Where the penalty goes through the gradient it is the strength at which mean |∂L/∂w| and
    mean |λ∂Ω/∂w| were equal when the penalty came on: that lies below λ* nearly always, by how much the benchmark says
    (analyses/failure_detection). For decoupled decay under an adaptive optimizer, whose steps are about as long as the
    learning rate, weights come to rest at 1/weight_decay at most (decision 134).

    Returns:
        The strength; None where it cannot be told, or where it is no lower than the strength that acted.
    """
    s = look.series
    if any(adaptive and beside for adaptive, beside in zip(look.info.adaptive, look.info.beside, strict=True)):
        return _bounded(look)
    on = np.flatnonzero(np.nan_to_num(s.strength[: look.n]) > 0)[: look.limits.window]
    on = on[np.isfinite(s.gradient[on]) & (s.penalty[on] > 0)]
    if not len(on):
        return None
    share = float(s.gradient[on].mean() / s.penalty[on].mean())
    if not 0 < share < 1:
        return None
    return Lower(
        float(s.strength[on].max()) * share,
        "at which both gradients were equal at the start: lower than need be, as a rule",
    )


def _bounded(look: RunPrefix) -> Lower | None:
    """Hold the weights of the start against the largest that decoupled decay leaves."""
    decay, begun = 2 * float(np.nan_to_num(look.series.strength[: look.n]).max()), float(look.series.weight[0])
    if look.info.penalty != "l2" or not decay * begun > 1:
        return None
    bound = (
        f"under this optimizer hardly a weight stays above 1/weight_decay = {1 / decay:.2g}, and they begin at "
        f"{begun:.2g} on average"
    )
    weaker = 1 / (ROOM * begun)
    return Lower(weaker / 2, f"under which the weights may stay as large as {ROOM} times what they begin at", bound)
