"""Searches against curves whose truth is known: do the intervals keep their promise, and at what price?"""

from __future__ import annotations

import math

import numpy as np

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.tolerance_search.oracles import Simulated, rounded
from gradscope.tolerance.ask_tell import ToleranceSearch

SLOPES = (0.01, 0.02, 0.05, 0.1, 0.2)
#: The judge's errors: none, and those of analyses/judge_first_look (of 81 runs that held one failed after all; of
#: 130 that were called failed none learned, entered as one).
JUDGES = {"perfect": (0.0, 0.0), "real": (1 / 131, 1 / 81)}
SEARCHES = 1000
LOW, HIGH = 1e-4, 1.0


def cells(asked: Options) -> list[Cell]:
    """Seeds in turn over all settings, so that it can be cut off."""
    return [{"judge": judge, "slope": slope, "seed": seed} for seed in range(SEARCHES) for judge in JUDGES
            for slope in SLOPES]  # fmt: skip


def simulate(cell: Cell, asked: Options) -> Row:
    """One search, over four decades, of a level anywhere in the middle three of them."""
    slope, seed, (alarms, misses) = cell["slope"], cell["seed"], JUDGES[cell["judge"]]
    random = np.random.default_rng([seed, round(1000 * slope), round(1e6 * misses)])
    level = float(random.uniform(-3.5, -0.5))
    oracle = Simulated(level, slope, random, alarms, misses)
    search = ToleranceSearch(LOW, HIGH, seed=seed)
    at_25 = (math.nan, math.nan)
    while not search.done:
        plan = search.ask()
        search.tell(oracle(plan))
        if len(search.told) == 25:
            at_25 = abs(float(search.posterior.quantile(0.5)) - level), search.posterior.decades()
    found = search.estimate()
    if len(search.told) < 25:
        at_25 = abs(float(search.posterior.quantile(0.5)) - level), search.posterior.decades()
    covered = found.low is not None and found.high is not None and math.log10(found.low) <= level
    covered = covered and level <= math.log10(found.high or math.inf)
    error = abs(math.log10(found.tolerance) - level) if found.tolerance else math.inf
    return rounded(
        covered=int(covered), decades=found.decades, error=error, trials=len(search.told),
        steps=sum(t.steps for t in search.told), error_25=at_25[0], decades_25=at_25[1],
    )  # fmt: skip
