"""Rank the causes of a failure: every one that the record can speak of is weighed, the penalty as one among them.

A weight is no probability: it orders the causes. What stands above .7 has evidence that would not be there without it;
below .5 it is a possibility. `ranked` is a function of one look and of the facts of the run's start, so the verdict and
the remedy cannot point to different causes.
"""

from __future__ import annotations

from dataclasses import replace

from gradscope.diagnosis import network_causes, penalty_causes, training_causes
from gradscope.diagnosis.cause import TOLD, UNKNOWN, Cause
from gradscope.diagnosis.circumstances import Facts
from gradscope.diagnosis.run_prefix import RunPrefix


def ranked(look: RunPrefix, facts: Facts, learned: bool = False) -> list[Cause]:
    """Rank all causes that something speaks for.

    Args:
        look: the rows so far.
        facts: what the run began with.
        learned: the run has learned before it failed, so that nothing it began with is the cause.

    Returns:
        At least one cause, the best founded first.
    """
    if learned:
        penalty = penalty_causes.penalty(look, facts)
        if penalty is not None and penalty_causes.acted(look) >= 1:
            penalty = replace(penalty, weight=0.8, evidence=[*penalty.evidence, "the run had learned before"])
        found_later = (
            training_causes.added_up(look),
            network_causes.dead(look, facts),
            network_causes.faded(look, facts),
            penalty_causes.undeclared(look, facts),
            penalty,
        )
        later = [c for c in found_later if c is not None and c.weight >= TOLD]
        return sorted(later, key=lambda c: -c.weight) or [Cause(UNKNOWN, 0.3)]
    causes = [
        training_causes.untrained(look, facts),
        training_causes.softmax_twice(look),
        training_causes.added_up(look),
        training_causes.ended_rate(facts),
        training_causes.clipping(look, facts),
        network_causes.initialisation(look, facts),
        network_causes.inputs(facts),
        network_causes.targets(look),
        network_causes.fixed_output(look, facts),
        network_causes.dead(look, facts),
        network_causes.faded(look, facts),
        training_causes.high_rate(facts),
        training_causes.low_rate(look, facts),
        training_causes.unfinished(look),
        penalty_causes.undeclared(look, facts),
        penalty_causes.penalty(look, facts),
        Cause(UNKNOWN, 0.3, [], ["nothing in the record points to a cause"], "look at data, labels, loss and model"),
    ]
    if not look.telling:
        causes[-2:] = _of_an_adversary(causes[-2])
    found = sorted((c for c in causes if c is not None and c.weight >= TOLD), key=lambda c: -c.weight)
    if found[0].name == UNKNOWN or len(found) == 1:
        return found
    return [c for c in found if c.name != UNKNOWN]


def _of_an_adversary(penalty: Cause | None) -> list[Cause | None]:
    """Weigh a penalty where the loss does not tell whether the net would learn without it."""
    said = "the loss of an adversary does not tell whether the net would learn without the penalty"
    unknown = Cause(UNKNOWN, 0.5, [], [said], "look at what the net draws, and at the other net")
    if penalty is None:
        return [unknown]
    return [replace(penalty, weight=min(penalty.weight, 0.45), against=[*penalty.against, said]), unknown]
