"""Rank the causes of a failure: every one that the record can speak of is weighed, the penalty as one among them.

A weight is no probability: it orders the causes. What stands above .7 has evidence that would not be there without it;
below .5 it is a possibility. `ranked` is a function of one look and of the facts of the run's start, so the verdict and
the remedy cannot point to different causes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis import measures
from gradscope.diagnosis.circumstances import GONE, Facts
from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.run_info import RunInfo

PENALTY, UNKNOWN = "penalty", "not in the record"
UNDECLARED = "a penalty that is not declared"
#: Causes with which a run may learn late: no verdict before its end.
SLOW = ("input scale", "learning rate too low")
#: What tells whether it is the penalty, where the record does not.
EXPERIMENT = "try a short run without the penalty: if it learns, the penalty is the cause, and a delay may help"
#: Steps that a training has at least, where its length is not known.
SHORT = 2000
#: Share of the weights by which a step moves them, at the start, that is large.
LARGE = 0.1
#: Times the baseline at which a loss begins where the weights do too large; where they may.
BEGINS, MAY = 10.0, 3.0
#: E-folding times before which a penalty has done nothing.
EARLY = 0.25
#: The same, of units that went off: what a penalty has not taken half of an e-folding time for, others did.
WENT_OFF = 0.5
#: A cause below this weight is not told.
TOLD = 0.1
#: Difference of the weights of the first two causes, below which the record does not tell them apart.
LEAST_LEAD = 0.1


@dataclass(frozen=True)
class Cause:
    """Hypothesis on why a run fails.

    Attributes:
        name: of the cause.
        weight: how well it stands, from 0 to 1; no probability.
        evidence: what speaks for it.
        against: what speaks against it.
        remedy: what to do if it is right.
    """

    name: str
    weight: float
    evidence: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "cause": self.name, "weight": round(self.weight, 2), "for": self.evidence, "against": self.against,
            "remedy": self.remedy,
        }  # fmt: skip


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
        penalty = _penalty(look, facts)
        if penalty is not None and acted(look) >= 1:
            penalty = replace(penalty, weight=0.8, evidence=[*penalty.evidence, "the run had learned before"])
        found_later = (
            _added_up(look), _dead(look, facts), _faded(look, facts), _undeclared(look, facts), penalty
        )  # fmt: skip
        later = [c for c in found_later if c is not None and c.weight >= TOLD]
        return sorted(later, key=lambda c: -c.weight) or [Cause(UNKNOWN, 0.3)]
    causes = [
        untrained(look, facts),
        _softmax(look),
        _added_up(look),
        _ended_rate(facts),
        _clipping(look, facts),
        _initialisation(look, facts),
        _inputs(facts),
        _targets(look),
        _fixed_output(look, facts),
        _dead(look, facts),
        _faded(look, facts),
        _high_rate(facts),
        _low_rate(look, facts),
        _unfinished(look),
        _undeclared(look, facts),
        _penalty(look, facts),
        Cause(UNKNOWN, 0.3, [], ["nothing in the record points to a cause"], "look at data, labels, loss and model"),
    ]
    found = sorted((c for c in causes if c is not None and c.weight >= TOLD), key=lambda c: -c.weight)
    if found[0].name == UNKNOWN or len(found) == 1:
        return found
    return [c for c in found if c.name != UNKNOWN]


def told_apart(causes: list[Cause]) -> bool:
    """Return whether the record tells the first cause from the others."""
    return len(causes) < 2 or causes[0].weight - causes[1].weight >= LEAST_LEAD


def acted(look: RunPrefix, step: float | None = None) -> float:
    """Return the e-folding times that the penalty has acted, up to a step."""
    n = look.n if step is None else int(np.searchsorted(look.series.step[: look.n], step, side="right"))
    return measures.e_foldings(look.series, n) if n else 0.0


def _length(look: RunPrefix) -> int:
    """Return the planned steps of the run or, where they are unknown, what is a short training at least."""
    return look.info.horizon or max(int(look.series.step[look.n - 1] + 1), SHORT)


def _penalty(look: RunPrefix, facts: Facts) -> Cause | None:
    s, n = look.series, look.n
    if not look.info.penalised.any() or not np.nan_to_num(s.strength[:n]).any():
        return None
    times = acted(look)
    start = measures.shrinking_since(s, n)
    shrunk = float(np.nan_to_num(measures.fallen(s, start, n, look.limits.window)[0], nan=0.0, posinf=9.0, neginf=0.0))
    said = [f"it acted for {times:.2g} e-folding times", f"the weights fell to {np.exp(-shrunk):.2g} of what they were"]
    remedy = "start again with the same strength and a delay, or with a lower strength"
    if times < EARLY:
        return Cause(PENALTY, 0.05, [], [f"it acted for {times:.2g} e-folding times: too little to matter"], remedy)
    if facts.off and acted(look, min(facts.off.values())) < WENT_OFF:
        return Cause(PENALTY, 0.2, said, ["no gradient passed any more before it had acted"], remedy)
    if shrunk >= 0.5:
        return Cause(PENALTY, 0.8, said, [], remedy)
    return Cause(
        PENALTY, 0.4 if times >= 1 and shrunk > 0 else 0.2, said[:1], [f"{said[1]}: they did not collapse"], remedy
    )


def _undeclared(look: RunPrefix, facts: Facts) -> Cause | None:
    times = look.info.by_hand * float(look.series.step[look.n - 1] + 1)
    if times >= 1:
        said = [
            f"script or optimizer take {look.info.by_hand:.2g} of the weights at each step, beside any weight_decay: "
            f"that has acted for {times:.2g} e-folding times"
        ]
        return Cause(UNDECLARED, 0.9 if times >= 3 else 0.6, said, [], "lower it, or leave it to the optimizer (the "
                     "weight_decay of AdamW, which is multiplied by the learning rate)")  # fmt: skip
    if not facts.shrunk:
        return None
    name, left = min(facts.shrunk.items(), key=lambda item: item[1])
    more = f", and {len(facts.shrunk) - 1} matrices more" if len(facts.shrunk) > 1 else ""
    said = [f"{name} fell to {left:.2g} of its largest norm{more}, and no penalty that is known acts there"]
    free = look.info.matrices & ~look.info.penalised & ~look.info.frozen
    weight = 0.85 if len(facts.shrunk) > 0.5 * free.sum() else 0.6
    return Cause(UNDECLARED, weight, said, [], "look for a term of the loss or a line of the script that shrinks the "
                 "weights: lower it, and declare the term (record(penalty=…)), or leave the line to weight_decay or "
                 "regularize(), so that it can be judged")  # fmt: skip


def untrained(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh the parameters that nothing trains; None where there are none."""
    info = look.info
    total = float(info.numel.sum())
    frozen = _named(info, info.frozen)
    named = {**dict.fromkeys(_named(info, info.unowned), "in no optimizer"), **dict.fromkeys(frozen, "frozen")}
    named |= {name: "without a gradient" for name in facts.silent if name not in named}
    left = sum(n for name, n in zip(info.parameters, info.numel, strict=True) if name in named)
    said = []
    if named:
        some = ", ".join(f"{name} ({why})" for name, why in list(named.items())[:3])
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        said.append(f"{left / total:.0%} of the weights are not trained: {some}{more}")
    if info.foreign:
        said.append(
            f"the optimizer holds {info.foreign} parameters that the model does not: was the model changed later?"
        )
    if info.hidden:
        said.append(f"modules that the model does not register: {', '.join(info.hidden[:3])}; use nn.ModuleList")
    if not said:
        return None
    missed = sum(n for name, n in zip(info.parameters, info.numel, strict=True) if name in named and name not in frozen)
    matrices = _named(info, info.matrices)
    nothing = bool(matrices) and all(name in named for name in matrices)
    if missed > 0.5 * total or nothing or info.foreign or info.hidden:
        weight = 0.97
    elif missed:
        weight = 0.2 + 0.6 * min(1.0, 2 * missed / total)
    else:
        weight = 0.15  # frozen on purpose, as a rule
    remedy = "make the optimizer from model.parameters(), after the model is complete, and let gradients reach them"
    return Cause("untrained parameters", weight, said, [], remedy)


def _named(info: RunInfo, mask: NDArray[np.bool_]) -> list[str]:
    """Return the names of the parameters of a mask, which is empty where the record does not say."""
    return [name for name, there in zip(info.parameters, mask, strict=False) if there]


def _softmax(look: RunPrefix) -> Cause | None:
    kind = look.info.applied_twice
    if not kind:
        return None
    said = [f"the loss takes logits or logarithms, and is given probabilities: a {kind} too many"]
    return Cause(f"{kind} twice", 0.9, said, [], f"leave out the last {kind}, or use the loss that takes its results")


def _added_up(look: RunPrefix) -> Cause | None:
    if not look.info.never_cleared:
        return None
    said = ["gradients are never cleared: each step uses the sum of all that there have been"]
    return Cause("gradients never cleared", 0.95, said, [], "call optimizer.zero_grad() in every step")


def _ended_rate(facts: Facts) -> Cause | None:
    if not facts.rate_gone > 0.3:
        return None
    said = [f"for {facts.rate_gone:.0%} of the rows the learning rate was below {GONE:g} of its largest"]
    return Cause("learning rate that went to 0", 0.92, said, [], "let the schedule last as long as the training does")


def _clipping(look: RunPrefix, facts: Facts) -> Cause | None:
    by_value = look.info.cut_by_value < 1
    clip = look.info.cut_by_value if by_value else facts.clip
    if not clip < 0.5 or any(look.info.adaptive):
        return None
    steps = _length(look)
    rate = float(np.nanmax(np.nan_to_num(look.series.rate[: look.n])))
    moved = facts.moves * clip if by_value else facts.moves_clipped
    reach, penalty = moved * steps, rate
    said = [
        f"gradients were clipped by value, or each by itself, to {clip:.2g} of their norm in the first steps"
        if by_value
        else f"{facts.clipped:.0%} of the steps were clipped, to {clip:.2g} of their size on average",
        f"a step of the loss moved the weights by {moved:.2g} of their size, without clipping by {facts.moves:.2g}",
    ]
    if penalty > 0:
        said.append(f"the penalty, which is not clipped, takes {penalty:.2g} of them a step")
    weight = 0.3
    if reach < 0.3 and facts.moves * steps > 3 * reach:
        weight = 0.95
        said.append(f"so all steps of the run move them by {reach:.2g} of their size, without a penalty too")
    elif moved < penalty < facts.moves:
        weight = 0.9
    elif clip < 0.05:
        weight = 0.6
    return Cause(
        "gradient clipping",
        weight,
        said,
        [],
        "clip at a larger norm (near the usual norm of the gradient), or not at all",
    )


def _initialisation(look: RunPrefix, facts: Facts) -> Cause | None:
    said, weight = [], 0.0
    signal = None if facts.signal is None else facts.signal[np.isfinite(facts.signal)]
    if signal is not None and len(signal) > 2 and signal[-1] < 1e-3 * signal[: len(signal) // 2].max():
        said.append(
            f"at the start {signal[-1]:.2g} of the output depends on the input, of the modules before it up to "
            f"{signal[: len(signal) // 2].max():.2g}"
        )
        weight = 0.9 if signal[-1] < 1e-4 else 0.5
    if facts.flow is not None:
        first, last = facts.flow
        if last > 0 and first < 1e-3 * last and first < 1e-4:
            said.append(f"at the start the gradient of the first matrix is {first / last:.2g} of that of the last")
            weight = max(weight, 0.9)
        elif last > 0 and first > 70 * last:
            said.append(f"at the start the gradient of the first matrix is {first / last:.3g} times that of the last")
            weight = max(weight, 0.5)
    begins = _begins(look)
    large = begins > MAY and not facts.large_inputs
    if large:
        said.append(f"the loss begins at {begins:.3g} times that of a constant prediction: the weights are too large")
        weight = max(weight, 0.92 if begins > BEGINS else 0.7)
    if facts.zeros > 0.5:
        said = [f"{facts.zeros:.0%} of the matrices begin with all entries 0"]
        return Cause("initialisation", 0.95, said, [], "draw the weights at random: layers of zeros stay what they are")
    if not said:
        return None
    if facts.off and not large:  # what is dead lets nothing through, however it was begun
        weight = min(weight, 0.5)
    remedy = "use He (ReLU) or Xavier (tanh) initialisation, residual connections or a normalisation"
    if large:
        remedy = "begin with smaller weights, those of the last layer above all (He or Xavier initialisation)"
    return Cause("initialisation", weight, said, [], remedy)


def _begins(look: RunPrefix) -> float:
    """Divide the first losses by the baseline; 0 where that says nothing of the weights (targets may be far from 0)."""
    entropy = any(word in look.info.loss_kind for word in ("entropy", "nll"))
    if not entropy or not look.baseline.sure or not look.baseline.loss > 0:
        return 0.0
    first = measures.losses(look.series, look.n)[:3]
    return float(first.min() / look.baseline.loss) if len(first) else 0.0  # a step that is too large makes the next


def _inputs(facts: Facts) -> Cause | None:
    if facts.signal is None or facts.size is None or not len(facts.signal) or not np.isfinite(facts.signal[0]):
        return None
    share = float(facts.signal[0])
    if share < 1e-5:
        said = ["the first module puts out the same for every sample from the start: the inputs are all alike"]
        return Cause("inputs that do not vary", 0.95, said, [], "look at what the data loader and the embedding return")
    if share < 0.05:  # of a healthy net .2 and more
        said = [f"of the first module's output {share:.2g} depends on the input at the start: the inputs hardly vary"]
        weight = 0.95 if share < 1e-3 else 0.85 if share < 0.02 else 0.7
        return Cause("input scale", weight, said, [], "scale the inputs to mean 0 and variance 1")
    if facts.large_inputs:
        said = [f"the first module puts out {facts.size[0]:.3g} on average at the start: the inputs are large"]
        return Cause("input scale", 0.85, said, [], "scale the inputs to mean 0 and variance 1")
    return None


def _targets(look: RunPrefix) -> Cause | None:
    """Targets far from 0, of which the loss has not even learned the mean."""
    times = look.info.loss_of_zero
    if not times > MAY or not look.end_level > 1.5 * look.baseline.loss:
        return None
    said = [
        f"the targets are far from 0: a net that puts out 0 pays {times:.3g} times what their best constant does, and "
        f"the loss ends at {look.end_level / look.baseline.loss:.3g} times that"
    ]
    weight = 0.5 if look.info.penalised.any() and acted(look) >= 1 else 0.9
    remedy = "scale them to mean 0 and variance 1, or begin the bias of the last layer at their mean"
    return Cause("targets far from 0", weight, said, [], f"{remedy}; else raise the learning rate")


def _fixed_output(look: RunPrefix, facts: Facts) -> Cause | None:
    """Find a last module whose input varies with the data and whose output does not, from the start."""
    if facts.signal is None or len(facts.signal) < 2 or not facts.signal[-1] < 1e-7 < 1e-3 < facts.signal[-2]:
        return None
    kind = str(["a module", *look.info.module_types.values()][-1])
    said = [f"the last module ({kind}) puts out the same for every sample from the start, and what enters it varies"]
    remedy = "a softmax over one output is always 1 (use a sigmoid), one unit that is off stays off: leave it out"
    return Cause("an output that cannot vary", 0.93, said, [], remedy)


def _dead(look: RunPrefix, facts: Facts) -> Cause | None:
    if not facts.off:
        return None
    name, since = min(facts.off.items(), key=lambda item: item[1])
    times, rest = acted(look, since), len(facts.off) - 1
    more = f", and {rest} more" if rest else ""
    said, cause = [f"all units of {name} are 0 since step {since}{more}"], "dead units"
    remedy = "lower the learning rate or a penalty on these outputs, begin with smaller biases, or use LeakyReLU there"
    if not facts.dead:
        cause = "gradients of exactly 0"
        said = [f"the loss gradient of {name} is exactly 0 since step {since}{more}: units after it are off, as a rule"]
    if times >= WENT_OFF and look.info.penalised.any():
        return Cause(cause, 0.4, said, [f"the penalty had acted for {times:.2g} e-folding times by then"], remedy)
    if since > look.series.step[0] and (facts.moves_clipped > LARGE or facts.large_inputs):
        return Cause(cause, 0.6, said, ["that came after steps which moved the weights a lot"], remedy)
    return Cause(cause, 0.9, said, [], remedy)


def _faded(look: RunPrefix, facts: Facts) -> Cause | None:
    if not facts.faded or facts.off:
        return None
    name, share = min(facts.faded.items(), key=lambda item: item[1])
    more = f", and {len(facts.faded) - 1} modules more" if len(facts.faded) > 1 else ""
    said = [f"of what {name} puts out, {share:.2g} of what once depended on the input still does{more}"]
    remedy = (
        "weaken what acts on these outputs (the KL term of a VAE, a penalty on a code), bring it in late, or see "
        "whether its scale goes with that of the loss (a mean beside a sum)"
    )
    acting = bool(facts.shrunk) or (look.info.penalised.any() and acted(look) >= 0.25)
    return Cause("a code that lost the input", 0.3 if acting else 0.8, said, [], remedy)


def _high_rate(facts: Facts) -> Cause | None:
    moves = facts.moves_clipped
    if not LARGE < moves < np.inf:
        return None
    said = [f"a step of the loss moved the weights by {moves:.2g} of their size at the start (usual: 1e-3)"]
    return Cause(
        "learning rate too high",
        0.6 if facts.large_inputs else 0.88 if moves > 1 else 0.7 if facts.off else 0.5 if moves > 0.3 else 0.3,
        said,
        [],
        "lower the learning rate, or warm it up",
    )


def _unfinished(look: RunPrefix) -> Cause | None:
    """Find a loss that goes on falling below its baseline, slowly: that is progress, though not enough of it."""
    s, n = look.series, look.n
    below = look.baseline.loss - look.end_level
    if look.constant or not below > 0 or not measures.still_improving(s, n, look.limits.standard_errors):
        return None
    share = below / abs(look.baseline.loss)
    said = [f"the loss was still falling at the end, {share:.1%} of the baseline below it"]
    return Cause("too short or too slow", 0.6, said, [], "train longer, or raise the learning rate")


def _low_rate(look: RunPrefix, facts: Facts) -> Cause | None:
    steps = _length(look)
    reach = facts.moves * steps
    if facts.moves == 0 and facts.rate > 0:  # it is the gradients that are 0
        return None
    if not reach < 0.1 or facts.clip < 0.5:
        return None
    said = [f"at the rate of the start all {steps} steps move the weights by {reach:.2g} of their size"]
    return Cause(
        "learning rate too low",
        0.85 if reach < 0.03 else 0.5,
        said,
        [],
        "raise the learning rate, or look for what keeps the gradients small",
    )
