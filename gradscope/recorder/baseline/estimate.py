"""Match the logged loss with the losses that were seen, and derive the baseline that follows for it.

Told by the numbers alone: the logged loss of a step beside what the loss functions gave in that step. So it does not
matter whether a tensor or a number was logged, summed over a batch, divided for accumulation, or with a term added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.recorder.baseline.target_sums import Array, Sums
from gradscope.run_info import SINGLE

#: Spread of a ratio that is a constant factor, and of one that float16 or an average over ranks may have moved.
EXACT, CLOSE = 1e-4, 5e-3
#: Share of the logged loss that the losses seen have to be, where other terms are in it.
PART = 0.1
#: Relative error that a running average of the loss may have, against the loss of the step.
AVERAGE_ERROR = 0.3


@dataclass(frozen=True)
class Estimate:
    """Loss of the best constant predictor.

    Attributes:
        loss: the number.
        source: how it was told.
        functions: the loss functions that it is of.
    """

    loss: float
    source: str
    functions: tuple[str, ...]


#: What the source of a baseline says where the logged loss is more than what was seen.
OTHER_TERMS = "the logged loss has other terms, which are taken to be 0 at best"
#: Looks in the last quarter of the steps below which they do not tell where a part of the loss is.
LOOKS = 8
#: Standard errors that its mean is allowed to be off.
ERRORS = 3.0


@dataclass(frozen=True)
class _Seen:
    """Loss function (or all together): its value in each of the steps, its baseline, and in words."""

    values: Array
    baseline: float
    text: str
    functions: tuple[str, ...]
    equal: str = ""


def estimate(sums: Sequence[Sums], losses: Mapping[int, float]) -> Estimate | str:
    """Estimate the baseline of these logged losses (by step), or return why the targets do not tell it."""
    sums = [s for s in sums if s.values]
    if not sums:
        return "no loss function of torch was seen"
    results = [{step: np.array(values) for step, values in s.values.items()} for s in sums]
    steps = [step for step in losses if any(step in found for found in results) and np.isfinite(losses[step])]
    if not steps:
        return "no loss was logged in the steps whose targets were seen"
    if all(s.constant for s in sums):
        one = SINGLE if _asked_for_one(sums, results, losses, steps) else "all targets (of each call) are the same"
        return f"{one}: the loss of an adversary or the like, which no constant tells"
    logged = np.array([losses[step] for step in steps])
    each = [seen for s, found in zip(sums, results, strict=True) for seen in _ways(s, found, steps)]
    together = _together(sums, results, steps)
    for tolerance in (EXACT, CLOSE):
        fits = [
            (abs(np.log(ratio)), ratio, seen)
            for seen in [*each, *together]
            if (ratio := _factor(logged, seen, tolerance))
        ]
        if fits:
            _, ratio, seen = min(fits, key=lambda fit: fit[0])
            return _made(seen, 1.0 if abs(ratio - 1) < CLOSE else ratio, "")
    whole = [seen for seen in [*together, *each] if np.isfinite(seen.baseline)]
    parts = [s for s in whole if (s.values <= logged * (1 + EXACT)).all() and np.median(s.values / logged) > PART]
    if parts:
        largest = max(parts, key=lambda seen: float(np.median(seen.values)))
        return _made(largest, 1.0, f"; {OTHER_TERMS}")
    near = [s for s in whole if abs(np.median(logged / np.where(s.values == 0, np.nan, s.values)) - 1) < AVERAGE_ERROR]
    if near:
        return _made(near[0], 1.0, "; what is logged is close to that loss, and not equal to it")
    return f"the logged loss is none of those that were seen ({', '.join(sorted({s.kind for s in sums}))})"


def _asked_for_one(
    sums: Sequence[Sums], results: Sequence[Mapping[int, Array]], losses: Mapping[int, float], steps: Sequence[int]
) -> bool:
    """Return whether what is logged is one call of each step, in which always the same is asked for, as of a generator.

    What its discriminator is asked for in the same step is seen, too.
    """
    logged = np.array([losses[step] for step in steps])
    for s, found in zip(sums, results, strict=True):
        for place in range(1, 1 + min(len(found.get(step, ())) for step in steps)):
            values = np.array([found[step][-place] for step in steps])
            targets = np.array([s.asked[step][-place] for step in steps])
            here = _Seen(values, 1.0, "", ())
            if (targets == targets[0]).all() and any(_factor(logged, here, close) for close in (EXACT, CLOSE)):
                return True
    return False


def part_of_baseline(sums: Sequence[Sums], found: Estimate, border: int) -> float:
    """Compute the part of the logged loss that was seen, over its baseline, where the loss has other terms.

    In the last quarter of the steps before ``border``: the mean and three standard errors.

    Returns:
        The share; NaN where there are no other terms, or too few steps were looked at.
    """
    if not found.source.endswith(OTHER_TERMS):
        return float("nan")
    results = [
        {step: np.array(values) for step, values in s.values.items() if 0.75 * border <= step < border} for s in sums
    ]
    steps = sorted({step for values in results for step in values})
    if len(steps) < LOOKS:
        return float("nan")
    each = [seen for s, values in zip(sums, results, strict=True) for seen in _ways(s, values, steps)]
    for seen in [*_together(sums, results, steps), *each]:
        if seen.functions == found.functions and seen.baseline > 0:
            share = seen.values / seen.baseline
            return float(share.mean() + ERRORS * share.std(ddof=1) / np.sqrt(len(share)))
    return float("nan")


def _made(seen: _Seen, ratio: float, more: str) -> Estimate:
    if seen.equal and ratio == 1 and not more:
        return Estimate(seen.baseline, f"assumed: {seen.equal}", seen.functions)
    scaled = f"; the logged loss is {ratio:.4g} times that" if ratio != 1 else ""
    return Estimate(ratio * seen.baseline, f"estimated: {seen.text}{scaled}{more}", seen.functions)


def _ways(sums: Sums, found: Mapping[int, Array], steps: Sequence[int]) -> list[_Seen]:
    """List the ways in which several calls in a step make its loss: the last, all as one mean, and their sum."""
    baseline, text = sums.baseline(), f"{sums.kind}, {sums.text}"
    calls = np.array([len(found.get(step, ())) for step in steps])
    if not calls.all():
        return []
    ways = [("", [found[step][-1] for step in steps], 1.0)]
    if calls.max() > 1:
        ways.append(("", [float(np.mean(found[step])) for step in steps], 1.0))
    if calls.max() > 1 and calls.min() == calls.max():
        ways.append(
            (f", {calls.max()} calls a step", [float(np.sum(found[step])) for step in steps], float(calls.max()))
        )
    equal = sums.equal if sums.reduction == 1 else ""
    return [
        _Seen(np.array(v), times * baseline, text + more, (sums.kind,), "" if more else equal)
        for more, v, times in ways
    ]


def _together(sums: Sequence[Sums], results: Sequence[Mapping[int, Array]], steps: Sequence[int]) -> list[_Seen]:
    """Add all loss functions up; those whose targets are all alike can be 0."""
    if len(sums) < 2:
        return []
    calls = [np.array([len(found.get(step, ())) for step in steps]) for found in results]
    values = sum(np.array([float(np.sum(found.get(step, 0.0))) for step in steps]) for found in results)
    baseline = sum(float(n.mean()) * s.baseline() for n, s in zip(calls, sums, strict=True))
    kinds = tuple(s.kind for s in sums)
    return [_Seen(np.asarray(values), float(baseline), f"the sum of {', '.join(kinds)}, each its best constant", kinds)]


def _factor(logged: Array, seen: _Seen, tolerance: float) -> float:
    """Return the constant factor between the logged loss and what was seen; 0 where there is none."""
    if not (seen.values > 0).all() or not np.isfinite(seen.baseline):
        return 0.0
    ratio = logged / seen.values
    middle = float(np.median(ratio))
    if len(ratio) < 2 and abs(middle - 1) > CLOSE:
        return 0.0
    steady = bool((np.abs(ratio - middle) <= tolerance * abs(middle)).all())
    return middle if middle > 0 and steady and (tolerance <= EXACT or abs(middle - 1) < CLOSE) else 0.0
