"""Weigh what the training does as a cause of a failure: its parameters, loss, gradients and learning rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis import measures
from gradscope.diagnosis.cause import Cause
from gradscope.diagnosis.circumstances import GONE, LARGE, Facts
from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.run_info import RunInfo

#: Share of the weights that a first step may move: a rate to try is named by it.
USUAL = 0.01
#: Steps that a training has at least, where its length is not known.
SHORT = 2000


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


def softmax_twice(look: RunPrefix) -> Cause | None:
    """Weigh a softmax, or its like, before a loss that holds one."""
    kind = look.info.applied_twice
    if not kind:
        return None
    said = [f"the loss takes logits or logarithms, and is given probabilities: a {kind} too many"]
    return Cause(f"{kind} twice", 0.9, said, [], f"leave out the last {kind}, or use the loss that takes its results")


def added_up(look: RunPrefix) -> Cause | None:
    """Weigh gradients that are never cleared."""
    if not look.info.never_cleared:
        return None
    said = ["gradients are never cleared: each step uses the sum of all that there have been"]
    return Cause("gradients never cleared", 0.95, said, [], "call optimizer.zero_grad() in every step")


def ended_rate(facts: Facts) -> Cause | None:
    """Weigh a schedule that ended before the training did."""
    if not facts.rate_gone > 0.3:
        return None
    said = [f"for {facts.rate_gone:.0%} of the rows the learning rate was below {GONE:g} of its largest"]
    return Cause("learning rate that went to 0", 0.92, said, [], "let the schedule last as long as the training does")


def clipping(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh the clipping of gradients."""
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


def high_rate(facts: Facts) -> Cause | None:
    """Weigh a learning rate that is too high."""
    moves = facts.moves_clipped
    if not LARGE < moves < np.inf:
        return None
    said = [
        f"a step of the loss moved the weights by {moves:.2g} of their size at the start (usual: a hundredth and less)"
    ]
    return Cause(
        "learning rate too high",
        0.6 if facts.large_inputs else 0.88 if moves > 1 else 0.7 if facts.off else 0.5 if moves > 0.3 else 0.3,
        said,
        [],
        f"lower the learning rate{_to(facts)}, or warm it up",
    )


def _to(facts: Facts) -> str:
    """Name a rate, in words; nothing where the first step does not tell one."""
    rate = facts.rate * USUAL / facts.moves_first if facts.moves_first > 0 else np.nan
    if not 0 < rate < np.inf:
        return ""
    return f" to about {rate:.2g} (there a first step moves the weights by a hundredth of their size)"


def unfinished(look: RunPrefix) -> Cause | None:
    """Weigh a loss that goes on falling below its baseline, slowly: that is progress, though not enough of it."""
    s, n = look.series, look.n
    below = look.baseline.loss - look.end_level
    if (
        look.constant
        or not look.telling
        or not below > 0
        or not measures.still_improving(s, n, look.limits.standard_errors)
    ):
        return None
    share = below / abs(look.baseline.loss)
    said = [f"the loss was still falling at the end, {share:.1%} of the baseline below it"]
    return Cause("too short or too slow", 0.6, said, [], "train longer, or raise the learning rate")


def low_rate(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh a learning rate that is too low."""
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
        f"raise the learning rate{_to(facts)}, or look for what keeps the gradients small",
    )


def _length(look: RunPrefix) -> int:
    """Return the planned steps of the run or, where they are unknown, what is a short training at least."""
    return look.info.horizon or max(int(look.series.step[look.n - 1] + 1), SHORT)
