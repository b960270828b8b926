"""The delayed level, read off branches of one learned checkpoint (a quarter of a core-hour).

A net learns without a penalty for so many steps; then the penalty comes on and is followed for `HORIZON` steps: the
smallest strength at which that fails is the delayed level. It is measured by full runs, through the product's own
posterior. Beside it, one learned net (weights, optimizer, order of the batches) is branched at several strengths for
some dozens of steps, which are kept as a reader sees them. There are two delays: ``auto``, the active phase that
``delayed:auto`` waits for, and ``twice`` the escape.
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
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.prediction.ask_tell import SHORTEST_FOLDING
from gradscope.prediction.features import features, smoothed
from gradscope.prediction.rows import Probe
from gradscope.recording.live_judge import CHUNK, border_after
from gradscope.tolerance.posterior import posterior_of
from gradscope.trials.trial import Outcome

FILE = "delayed.jsonl"
LIMITS = Thresholds()
#: Nets that escape later, and kinds whose steps take long, are left out.
LATEST, SLOW = 250, ("text", "images")
#: When a penalty comes on: in the active phase, or after so many escapes and no fewer than so many steps.
WHENS = ("twice", "auto")
ESCAPES, SHORTEST = 2, 60
#: A net that is in its active phase later than this is left out.
LAST = 700
#: Where a level is looked for first, in decades above the level from the start; runs in the first wave and in others.
FIRST, COUNTS = (-0.4, 1.2), (8, 6, 6, 6)
#: Decades of the interval at which it is known well enough.
KNOWN = 0.16
#: Distances log₁₀(λ/λ*) of the branches: (how many, at most so far away); their rows.
BRANCHES, ROWS = ((6, 0.45), (8, 1.2)), (40, 80)
#: Seed of the learned net.
LEARNED = 4000


def delay_of(case: Case, when: str) -> int:
    """Steps without a penalty; 0 where the active phase does not come."""
    if when == "twice":
        return max(SHORTEST, math.ceil(ESCAPES * case.escape))
    runs, losses = Ensemble(case.configuration, [0.0], [LEARNED]), np.zeros(0)
    border = CHUNK
    while border <= LAST:
        while len(losses) < border:
            losses = np.append(losses, runs.forward_backward()[0])
            runs.update()
        border = border_after(border)
        if established(losses, task(case.configuration.task).baseline):
            return border  # decided on while the next rows are recorded
    return 0


def established(losses: NDArray[np.float64], baseline: float) -> bool:
    """Whether the judge would see half of the baseline's loss gone; what else it looks at is left out."""
    length = LIMITS.window
    while length <= max(len(losses) // 2, LIMITS.window):
        part = losses[-length:]
        most = part.mean() + LIMITS.standard_errors * part.std(ddof=1) / math.sqrt(length)
        if most < (1 - LIMITS.established) * baseline:
            return True
        length *= 2
    return False


def chosen() -> list[Case]:
    """The configurations: constant rates, early, cheap, with a level from the start."""
    known = (case for case in of_kind(cases(), "direct") if case.configuration.decay == "none")
    return [c for c in known if c.escape <= LATEST and c.configuration.family not in SLOW]


def strongest(c: Configuration) -> float:
    """log₁₀ of the strength at which a step of the penalty alone overshoots."""
    return math.log10((1 - c.momentum) / (2 * c.lr * SHORTEST_FOLDING))


def measured(case: Case, delay: int) -> Row:
    """The delayed level with its interval, from full runs."""
    c, start = case.configuration, math.log10(case.level)
    low, high = (min(start + end, strongest(c)) for end in FIRST)
    trials: list[tuple[float, bool]] = []
    for count in COUNTS:
        at = np.linspace(low, high, count)
        first = 5000 + 10 * len(trials)
        failed, _ = outcomes(c, (10**at).tolist(), range(first, first + count), delay=delay)
        trials += [(float(s), bool(f)) for s, f in zip(10**at, failed, strict=True)]
        ways = {f for _, f in trials}
        if ways == {True}:  # a delay harms
            low, high = low + FIRST[0] - FIRST[1], low
            continue
        if ways == {False}:
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


def kept(probe: Probe, counts: tuple[int, ...]) -> Row:
    """What a branch shows after each of these numbers of rows."""
    found: Row = {}
    for rows in counts:
        first = probe.first(rows)
        found[f"features-{rows}"] = [float(f"{x:.4g}") for x in features(first)]
        found[f"restoring-{rows}"] = [round(x, 4) for x in restoring(first)]
    return found


def branched(case: Case, level: float, delay: int, counts: tuple[int, ...] = ROWS) -> list[Row]:
    """Branches of one learned net, around this level; ``counts``: of rows, whose features are kept."""
    c = case.configuration
    random = np.random.default_rng([26, c.number])
    places = [
        float(u)
        for count, reach in BRANCHES
        for u in reach * (2 * (np.arange(count) + random.random(count)) / count - 1)
    ]
    strengths = [level * 10**u for u in places if math.log10(level) + u <= strongest(c)]
    runs = Ensemble(c, [0.0], [LEARNED])
    runs.learn(delay)
    runs.branch(strengths)
    loss, sizes = rows_of(runs, max(counts))
    facts: dict[str, Any] = {
        "numel": [runs.parameters[name][0].numel() for name in runs.matrices], "baseline": task(c.task).baseline,
        "strengths": strengths,
    }  # fmt: skip
    whole: NDArray[np.float64] = loss.astype(np.float64)
    probes = list(recorded(c, facts, whole, sizes.astype(np.float64), range(len(strengths)), 1))
    return [
        {"place": round(math.log10(probe.strength / level), 4), **kept(probe, counts)}
        for probe in probes
        if np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all()
    ]


def cells(asked: Options) -> list[Cell]:
    """One a configuration and delay."""
    return [{"key": case.configuration.key, "when": when} for when in WHENS for case in chosen()]


def collected(cell: Cell, asked: Options) -> Row:
    """The level of one configuration, and its branches."""
    case = next(case for case in chosen() if case.configuration.key == cell["key"])
    if (delay := delay_of(case, cell["when"])) == 0:
        return {"delay": 0, "determined": False, "reason": f"no active phase within {LAST} steps", "branches": []}
    found = measured(case, delay)
    counts = ROWS if cell["when"] == "twice" else ROWS[-1:]
    branches = branched(case, found["level"], delay, counts) if found["determined"] else []
    return {"delay": delay, "steps": HORIZON, **found, "branches": branches}
