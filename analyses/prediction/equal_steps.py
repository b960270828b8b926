"""What the product's search knows of a level after as many steps as a prediction takes, simulated.

The search itself, ask and tell, on a curve about each measured level, in a range of four decades that holds the level
anywhere but in its outer decades. A trial that the budget does not pay for whole tells nothing. Its price is that of a
small MLP (110 steps where it fails, 150 where it learns), for late nets too: that is kind to the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.common.markdown import markdown
from analyses.prediction.fit import Tried
from analyses.tolerance_search.oracles import Simulated
from gradscope.tolerance.ask_tell import ToleranceSearch

#: The slope of the curves, in decades.
SLOPE = 0.03
#: Decades of the range, and how near to its ends the level may be.
RANGE, MARGIN = 4.0, 1.0
#: Searches of each configuration, and budgets beside that of the prediction.
SEARCHES, BUDGETS = 2, (400, 800, 1150)
#: Decades, at which the search ends by itself.
PRECISION = 0.1


@dataclass(frozen=True)
class Known:
    """What a search knows when its steps are spent: the error of its middle, its interval's width, in decades, how many
    trials there were, and whether the interval holds the level.
    """

    error: float
    width: float
    trials: int
    holds: bool


def searched(level: float, budget: int, seed: Sequence[int]) -> Known:
    """One search of log₁₀ λ* = ``level``."""
    random = np.random.default_rng(seed)
    low = level - random.uniform(MARGIN, RANGE - MARGIN)
    search = ToleranceSearch(10**low, 10 ** (low + RANGE), precision=PRECISION, seed=int(random.integers(1 << 30)))
    oracle = Simulated(level, SLOPE, random)
    while not search.done:
        trial = oracle(search.ask())
        budget -= trial.steps
        if budget < 0:
            break
        search.tell(trial)
    least, middle, most = (float(q) for q in search.posterior.quantile([0.025, 0.5, 0.975]))
    return Known(middle - level, most - least, len(search.told), least <= level <= most)


def at_the_same_steps(results: Sequence[Tried]) -> list[float]:
    """The errors of one search a configuration, with the steps that its prediction took."""
    return [
        searched(math.log10(r.case.level), r.steps[r.ended - 1], [27, r.case.configuration.number]).error
        for r in results
    ]


def told(results: Sequence[Tried]) -> str:
    """The table."""
    lines = []
    for budget in (None, *BUDGETS):
        found = [
            searched(math.log10(r.case.level), budget or r.steps[r.ended - 1], [28, r.case.configuration.number, n])
            for r in results
            for n in range(SEARCHES)
        ]
        sizes = np.abs([k.error for k in found])
        lines.append([
            str(budget) if budget else f"the prediction's ({np.median([r.steps[r.ended - 1] for r in results]):.0f})",
            f"{np.mean([k.trials for k in found]):.1f}", f"{np.median(sizes):.3f}", f"{np.quantile(sizes, 0.9):.2f}",
            *(f"{np.mean(sizes <= math.log10(x)):.2f}" for x in (1.2, 1.5)),
            f"± {np.median([k.width for k in found]) / 2:.2f}", f"{np.mean([k.holds for k in found]):.3f}",
        ])  # fmt: skip
    columns = ["steps", "trials", "median error", "90 %", "within 1.2x", "within 1.5x", "95 % interval, median",
               "holds the level"]  # fmt: skip
    return (
        f"Written by `python -m analyses plot prediction`: {SEARCHES} simulated searches of each of the {len(results)} "
        f"levels under SGD and AdamW, over {RANGE:g} decades, slope {SLOPE:g}.\n\n" + markdown(columns, lines) + "\n"
    )
