"""Weigh as causes of a failure what a run begins with and what becomes of its units."""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.cause import Cause
from gradscope.diagnosis.circumstances import LARGE, Facts
from gradscope.diagnosis.penalty_causes import acted, went_off_early
from gradscope.diagnosis.run_prefix import RunPrefix

#: Times the baseline at which a loss begins where the weights do too large; where they may.
BEGINS, MAY = 10.0, 3.0


def initialisation(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh the weights that the run began with."""
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


def inputs(facts: Facts) -> Cause | None:
    """Weigh the scale of the inputs."""
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


def targets(look: RunPrefix) -> Cause | None:
    """Weigh targets far from 0, of which the loss has not even learned the mean."""
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


def fixed_output(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh a last module whose input varies with the data and whose output does not, from the start."""
    if facts.signal is None or len(facts.signal) < 2 or not facts.signal[-1] < 1e-7 < 1e-3 < facts.signal[-2]:
        return None
    kind = str(["a module", *look.info.module_types.values()][-1])
    said = [f"the last module ({kind}) puts out the same for every sample from the start, and what enters it varies"]
    remedy = "a softmax over one output is always 1 (use a sigmoid), one unit that is off stays off: leave it out"
    return Cause("an output that cannot vary", 0.93, said, [], remedy)


def dead(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh units, or gradients, that are exactly 0."""
    if not facts.off:
        return None
    name, since = min(facts.off.items(), key=lambda item: item[1])
    times, rest = acted(look, since), len(facts.off) - 1
    more = f", and {rest} more" if rest else ""
    said, cause = [f"all units of {name} are 0 since step {since}{more}"], "dead units"
    remedy = "lower the learning rate or a penalty on these outputs, begin with smaller biases, or use LeakyReLU there"
    if since <= look.series.step[0]:  # before any step: no rate and no penalty has had a say
        remedy = "begin with other weights and smaller biases, or use LeakyReLU there"
    if not facts.dead:
        cause = "gradients of exactly 0"
        said = [f"the loss gradient of {name} is exactly 0 since step {since}{more}: units after it are off, as a rule"]
    if look.info.penalised.any() and not went_off_early(look, facts):
        return Cause(cause, 0.4, said, [f"the penalty had acted for {times:.2g} e-folding times by then"], remedy)
    if since > look.series.step[0] and (facts.moves_clipped > LARGE or facts.large_inputs):
        return Cause(cause, 0.6, said, ["that came after steps which moved the weights a lot"], remedy)
    return Cause(cause, 0.9, said, [], remedy)


def faded(look: RunPrefix, facts: Facts) -> Cause | None:
    """Weigh a module whose output lost what depends on the input."""
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
