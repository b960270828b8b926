"""Searches against curves whose truth is known: do the intervals keep their promise, and at what price?"""

from __future__ import annotations

import math

import numpy as np

from analyses.tolerance_search.oracles import Simulated
from analyses.tolerance_search.tables import Table
from gradscope.tolerance.ask_tell import ToleranceSearch

SLOPES = (0.01, 0.02, 0.05, 0.1)
#: The judge's errors: none, and those of analyses/judge_first_look (of 81 runs that held one failed after all; of
#: 130 that were called failed none learned, entered as one).
JUDGES = {"perfect": (0.0, 0.0), "real": (1 / 131, 1 / 81)}
SEARCHES = 1000
LOW, HIGH = 1e-4, 1.0

COLUMNS = ("judge", "slope", "seed", "covered", "decades", "error", "trials", "steps", "error_25", "decades_25")


def simulate(table: Table, searches: int = SEARCHES) -> None:
    """All searches that the table does not hold yet; seeds in turn over all settings, so that it can be cut off."""
    for seed in range(searches):
        for judge, (alarms, misses) in JUDGES.items():
            for slope in SLOPES:
                if {"judge": judge, "slope": slope, "seed": seed} not in table:
                    table.add({"judge": judge, "slope": slope, "seed": seed, **one(slope, seed, alarms, misses)})


def one(slope: float, seed: int, alarms: float, misses: float) -> dict[str, float | int]:
    """One search, over four decades, of a level anywhere in the middle three of them."""
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
    return {
        "covered": int(covered), "decades": found.decades, "error": error, "trials": len(search.told),
        "steps": sum(t.steps for t in search.told), "error_25": at_25[0], "decades_25": at_25[1],
    }  # fmt: skip


def table() -> Table:
    """The recorded result."""
    return Table("simulated.csv", COLUMNS, ("judge", "slope", "seed"))
