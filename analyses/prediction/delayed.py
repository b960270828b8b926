"""The delayed level, read off branches of one learned checkpoint (seven core-minutes).

A net learns without a penalty for `delay` steps; then the penalty comes on and is followed for `HORIZON` steps: the
smallest strength at which that fails is the delayed level. It is measured by full runs, through the product's own
posterior. Beside it, one learned net (weights, optimizer, order of the batches) is branched at several strengths for
some dozens of steps, which are kept as a reader sees them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.prediction.configurations import HORIZON, Configuration
from analyses.prediction.data import Case, cases, recorded
from analyses.prediction.fit import of_kind
from analyses.prediction.tasks import task
from analyses.prediction.training import Ensemble, outcomes, rows_of
from gradscope.prediction.ask_tell import SHORTEST_FOLDING
from gradscope.prediction.features import features, smoothed
from gradscope.prediction.rows import Probe
from gradscope.tolerance.posterior import posterior_of
from gradscope.trials.trial import Outcome

FILE = "delayed.jsonl"
#: Nets that escape later, and kinds whose steps take long, are left out.
LATEST, SLOW = 250, ("text", "images")
#: Steps without a penalty: so many escapes, and no fewer than these.
ESCAPES, SHORTEST = 2, 60
#: Where a level is looked for first, in decades above the level from the start; runs in the first wave and in others.
FIRST, COUNTS = (-0.4, 1.2), (8, 6, 6, 6)
#: Decades of the interval at which it is known well enough.
KNOWN = 0.16
#: Distances log₁₀(λ/λ*) of the branches: (how many, at most so far away); their rows.
BRANCHES, ROWS = ((6, 0.45), (8, 1.2)), (40, 80)


def delay_of(case: Case) -> int:
    """Steps without a penalty."""
    return max(SHORTEST, math.ceil(ESCAPES * case.escape))


def chosen() -> list[Case]:
    """The configurations: constant rates, early, cheap, with a level from the start."""
    known = (case for case in of_kind(cases(), "direct") if case.configuration.decay == "none")
    return [c for c in known if c.escape <= LATEST and c.configuration.family not in SLOW]


def strongest(c: Configuration) -> float:
    """log₁₀ of the strength at which a step of the penalty alone overshoots."""
    return math.log10((1 - c.momentum) / (2 * c.lr * SHORTEST_FOLDING))


def measured(case: Case) -> Row:
    """The delayed level with its interval, from full runs."""
    c, start = case.configuration, math.log10(case.level)
    low, high = (min(start + end, strongest(c)) for end in FIRST)
    trials: list[tuple[float, bool]] = []
    for count in COUNTS:
        at = np.linspace(low, high, count)
        first = 5000 + 10 * len(trials)
        failed, _ = outcomes(c, (10**at).tolist(), range(first, first + count), delay=delay_of(case))
        trials += [(float(s), bool(f)) for s, f in zip(10**at, failed, strict=True)]
        if len({f for _, f in trials}) < 2:
            break
        found = posterior_of([Outcome(s, float(f)) for s, f in trials])
        low, _, high = (float(q) for q in found.quantile([0.025, 0.5, 0.975]))
        if high - low <= KNOWN:
            break
        margin = max(0.02, 0.1 * (high - low))
        low, high = low + margin, min(high - margin, strongest(c))
    outcome = [Outcome(s, float(f)) for s, f in trials]
    estimate = posterior_of(outcome).estimate(outcome)
    return {
        "determined": estimate.determined, "reason": estimate.reason, "level": estimate.tolerance,
        "low": estimate.low, "high": estimate.high, "slope": estimate.slope, "trials": trials,
    }  # fmt: skip


def restoring(probe: Probe) -> tuple[float, float]:
    """log₁₀ of the strength that the loss's pull on the weights would bear, at its greatest.

    −⟨w, g⟩/(2‖w‖²), a mean of five rows: of all matrices together, and of the one where it is least.
    """
    whole = -probe.dot.sum(1) / (2 * (probe.weight**2).sum(1))
    each = -probe.dot / (2 * probe.weight**2)
    greatest = [float(smoothed(column)[4:].max()) for column in (whole, *each.T)]
    return tuple(math.log10(max(x, 1e-9)) for x in (greatest[0], min(greatest[1:])))  # type: ignore[return-value]


def kept(probe: Probe) -> Row:
    """What a branch shows after each number of rows."""
    found: Row = {}
    for rows in ROWS:
        first = probe.first(rows)
        found[f"features-{rows}"] = [float(f"{x:.4g}") for x in features(first)]
        found[f"restoring-{rows}"] = [round(x, 4) for x in restoring(first)]
    return found


def branched(case: Case, level: float) -> list[Row]:
    """Branches of one learned net, around this level."""
    c = case.configuration
    random = np.random.default_rng([26, c.number])
    places = [
        float(u)
        for count, reach in BRANCHES
        for u in reach * (2 * (np.arange(count) + random.random(count)) / count - 1)
    ]
    strengths = [level * 10**u for u in places if math.log10(level) + u <= strongest(c)]
    runs = Ensemble(c, [0.0], [4000])
    runs.learn(delay_of(case))
    runs.branch(strengths)
    loss, sizes = rows_of(runs, max(ROWS))
    facts: dict[str, Any] = {
        "numel": [runs.parameters[name][0].numel() for name in runs.matrices], "baseline": task(c.task).baseline,
        "strengths": strengths,
    }  # fmt: skip
    whole: NDArray[np.float64] = loss.astype(np.float64)
    probes = list(recorded(c, facts, whole, sizes.astype(np.float64), range(len(strengths)), 1))
    return [
        {"place": round(math.log10(probe.strength / level), 4), **kept(probe)}
        for probe in probes
        if np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all()
    ]


def cells(asked: Options) -> list[Cell]:
    """One a configuration."""
    return [{"key": case.configuration.key} for case in chosen()]


def collected(cell: Cell, asked: Options) -> Row:
    """The level of one configuration, and its branches."""
    case = next(case for case in chosen() if case.configuration.key == cell["key"])
    found = measured(case)
    branches = branched(case, found["level"]) if found["determined"] else []
    return {"delay": delay_of(case), "steps": HORIZON, **found, "branches": branches}
