"""Rules of the verdict: a finding for every kind of failure, each a function of one look.

*Collapse* is told by the weights: the penalty has shrunk them by a factor of e, the loss gradient has shrunk with them,
and the **radial balance** B = −Σ⟨w, ∂L/∂w⟩ / Σ⟨w, λ∂Ω/∂w⟩ (what the loss does for the size of the weights over what the
penalty does against it) is close to 0 and not rising. In a net of L layers the loss gradient falls like the (L−1)-th
power of the weights, the penalty's like the first: with B near 0 the penalty wins a little more with every step
(decision note 2).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.run_prefix import CONSTANT, Baseline, RunPrefix
from gradscope.diagnosis.verdict import Failure
from gradscope.types import Verdict


def diverged(look: RunPrefix) -> Failure | None:
    """Find a run that is not finite for half a window, or whose loss is many times the baseline and what it was."""
    s, n, limits = look.series, look.n, look.limits
    if measures.not_finite(s, n)[-limits.window // 2 :].all():
        return not_finite(look)
    early = s.loss[: limits.window]
    early = early[np.isfinite(early)]
    if not look.telling:
        return None
    usual = max(np.nan_to_num(look.baseline.loss), float(np.median(early)) if early.size else 0.0)
    if look.level > limits.exploded * usual > 0:
        evidence = [f"the loss is {look.level:.3g}, {look.level / usual:.0f} times what it was or the baseline is"]
        return Failure(Verdict.DIVERGED, look.step, int(s.step[n - limits.window]), evidence)
    return None


def not_finite(look: RunPrefix) -> Failure:
    """Find the first row whose loss or weights are not finite."""
    first = int(look.series.step[np.flatnonzero(measures.not_finite(look.series, look.n))[0]])
    return Failure(Verdict.DIVERGED, look.step, first, [f"loss or weights are not finite from step {first}"])


def collapsed(look: RunPrefix) -> Failure | None:
    """Find weights and loss gradients that have shrunk together under the penalty, with the loss at the baseline."""
    s, n, limits = look.series, look.n, look.limits
    if not look.pushed or np.isnan(s.gradient[n - 1]):
        return None
    start = measures.shrinking_since(s, n)
    shrunk, faded = measures.fallen(s, start, n, limits.window)
    silent = look.constant
    if not (silent or look.telling):
        return None
    if shrunk < limits.shrunk or not (silent or faded >= limits.shrunk / 2):
        return None
    now, before = measures.last_windows(s, n, limits.window)
    balance, earlier = measures.radial_balance(s, now), measures.radial_balance(s, before)
    held = balance > limits.balance or balance > limits.rising * np.nanmax([earlier, limits.still])
    # An adaptive step does not follow the size of the gradient: there, ⟨w, ∂L/∂w⟩ is not what the loss does for w.
    if (held or any(look.info.adaptive)) and not silent:
        return None
    return collapse_found(look, start, balance)


def relapsed(look: RunPrefix, escaped_step: int | None) -> Failure | None:
    """Find a run that has learned and lost it under the penalty: its loss is back at the baseline, and stays there.

    Under an adaptive optimizer such runs come back, for its steps do not shrink with the gradient.

    Returns:
        The failure, or None.
    """
    s, n, limits = look.series, look.n, look.limits
    if escaped_step is None or not look.pushed or not look.baseline.sure or any(look.info.adaptive):
        return None
    acted = np.nan_to_num(s.rate[:n]) * np.diff(s.step[:n], prepend=s.step[0] - 1)
    left = np.cumsum(acted[::-1])[::-1]  # e-folding times from each row on
    start = min(int(np.searchsorted(-left, -limits.lost, side="right")) - 1, n - 4 * limits.window)
    if start < 0 or s.step[start] <= escaped_step:
        return None
    level = measures.loss_level(s, start, n)
    if not (level >= look.baseline.below(limits.improved / 2) and look.above(limits.improved, start)):
        return None
    evidence = [
        f"the run learned from step {escaped_step} on, and has lost it: for {limits.lost:g} e-folding times of the "
        f"penalty the loss is {level:.4g}, the baseline {look.baseline.loss:.4g} ({look.baseline.source})"
    ]
    return Failure(Verdict.COLLAPSED, look.step, int(s.step[start]), evidence)


def falls(look: RunPrefix) -> bool:
    """Return whether a penalty is taking weights and loss gradients down together, and the loss is at its baseline."""
    s, n, limits = look.series, look.n, look.limits
    if not look.pushed or look.improvement(limits.improved):
        return False
    _, before = measures.last_windows(s, n, limits.window)
    size = measures.weight_size(s, n)
    _, faded = measures.fallen(s, measures.shrinking_since(s, n), n, limits.window)
    return bool(size[n - 1] < size[before.start] and faded > 0)


def doomed(look: RunPrefix, signs: str) -> Failure | None:
    """Find a run that has not collapsed yet but will: the weights fall, and the signals (``signs``) say so."""
    if not signs or not falls(look):
        return None
    now, _ = measures.last_windows(look.series, look.n, look.limits.window)
    start = measures.shrinking_since(look.series, look.n)
    found = collapse_found(look, start, measures.radial_balance(look.series, now))
    return found and replace(found, evidence=[*found.evidence, signs])


def collapse_found(look: RunPrefix, start: int, balance: float) -> Failure | None:
    """Build the finding with its evidence, unless the loss says that the run learns."""
    s, n = look.series, look.n
    now, _ = measures.last_windows(s, n, look.limits.window)
    level = measures.loss_level(s, now.start, n)
    improved = level < look.baseline.below(look.limits.improved)
    if improved and (look.baseline.known or not look.constant):
        return None
    # What looks like progress is then the best constant, below a baseline that was assumed: classes
    # need not be equal.
    stands = Baseline(level, CONSTANT) if improved else look.baseline
    shrunk, faded = measures.fallen(s, start, n, look.limits.window)
    evidence = [
        f"since step {s.step[start]:.0f} mean |w| fell to {np.exp(-shrunk):.3g} "
        f"and mean |∂L/∂w| to {np.exp(-faded):.3g} of what they were",
        f"the loss is {level:.4g}, the baseline {stands.loss:.4g} ({stands.source})"
        if look.telling
        else f"the loss is {level:.4g}, which tells nothing: {look.info.loss_kind}",
    ]
    if look.constant:
        evidence.append("the output no longer depends on the input")
    if not any(look.info.adaptive):  # there, ⟨w, ∂L/∂w⟩ is not what the loss does for w
        evidence.append(about_balance(balance))
    constant_loss = level if improved else None
    return Failure(Verdict.COLLAPSED, look.step, int(s.step[start]), evidence, constant_loss=constant_loss)


def about_balance(balance: float) -> str:
    """Write the radial balance in words."""
    if np.isnan(balance):
        return "the radial balance could not be used: ⟨w, ∂L/∂w⟩ or ‖w‖ is not in the record"
    share = f"{max(balance, 0) * 100:.1f} %"
    return f"radial balance {balance:.2g}: the loss gives back {share} of what the penalty takes from the weights"


def at_the_horizon(look: RunPrefix) -> Failure:
    """Find out why a run that ended without having learned did so."""
    found = collapsed(look)
    if found:
        return found
    s, n, limits = look.series, look.n, look.limits
    evidence = [
        f"the loss ends at {look.end_level:.4g}, the baseline is {look.baseline.loss:.4g} ({look.baseline.source})"
    ]
    # The label is one definition; what the run looked like before the weights ran out is another.
    size = measures.weight_size(s, n)
    start = measures.shrinking_since(s, n)
    shrunk = np.log(max(size[start], 1e-300) / max(size[n - 1], 1e-300))
    if np.nanmax(s.strength) > 0 and shrunk >= limits.shrunk:
        evidence.append(f"the weights fell to {np.exp(-shrunk):.3g} of what they were at step {s.step[start]:.0f}")
        return Failure(Verdict.COLLAPSED, look.step, int(s.step[start]), evidence)
    move = np.nansum(s.gradient) / max(float(s.weight[0]), 1e-300)
    if move < limits.vanishing:
        evidence.append(f"all loss gradients together are {move:.2g} of the size of the weights")
        return Failure(Verdict.VANISHING, look.step, int(s.step[0]), evidence)
    if shrunk < limits.shrunk:
        evidence.append("the weights did not collapse: no progress, for another reason than the penalty")
    return Failure(Verdict.STALLED, look.step, int(s.step[0]), evidence)
