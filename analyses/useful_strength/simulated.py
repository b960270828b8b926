"""tune against a grid on curves that are known; about 6 core-minutes.

Nothing is trained: a run at strength λ ends with the curve's metric and a scatter of .01, or fails where a normal
curve of .03 decades says so, after a quarter of its steps. Of the scatter's variance nothing is the seed's, or .6 of it
is, which a seed then does at every strength alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.tuning.ask_tell import StrengthTuning
from gradscope.tuning.result import concluded

FILE = "simulated.csv"
LOW, HIGH = 1e-4, 1.0
NOISE, SLOPE, WHOLE, CUT, LEVEL = 0.01, 0.03, 400, 100, -1.6
REPEATS, SEEDS = 12, 5
#: Of the variance, what is the seed's; on the trainings of this study between .4 and .9.
SHARES = (0.0, 0.6)


def hill(x: float) -> float:
    """Best at 10^-2.7, a steeper fall beyond 10^-2; .8 without a penalty."""
    return 0.8 if math.isinf(x) else 0.9 - 0.03 * (x + 2.7) ** 2 - 0.5 * max(0.0, x + 2) ** 2


def rising(x: float) -> float:
    """The stronger the better, up to the level."""
    return 0.8 if math.isinf(x) else 0.8 + 0.05 * (x + 4)


def flat(x: float) -> float:
    """The penalty changes nothing, until just below the level."""
    return 0.9 if math.isinf(x) else 0.9 - 0.3 * max(0.0, x + 1.9) ** 2


CURVES: dict[str, Callable[[float], float]] = {"hill": hill, "rising": rising, "flat": flat}


class Runs:
    """The runs of one tuning or grid: ``of(strength, seed)`` is the metric, None where it fails."""

    def __init__(self, curve: Callable[[float], float], share: float, number: int) -> None:
        self._curve, self._share, self._random = curve, share, np.random.default_rng(number)
        self._of_seed: dict[int, float] = {}

    def of(self, strength: float, seed: int) -> float | None:
        """One run."""
        x, random = math.log10(strength) if strength else -math.inf, self._random
        failed = x + SLOPE * random.standard_normal() > LEVEL
        everywhere = self._of_seed.setdefault(seed, float(random.standard_normal())) if self._share else 0.0
        scatter = math.sqrt(self._share) * everywhere + math.sqrt(1 - self._share) * float(random.standard_normal())
        return None if failed else self._curve(x) + NOISE * scatter


def worth(curve: Callable[[float], float], strength: float) -> float:
    """The expected metric, with .1 where a run fails."""
    x = math.log10(strength)
    fails = 0.5 * math.erfc(-(x - LEVEL) / SLOPE / math.sqrt(2))
    return (1 - fails) * curve(x) + fails * 0.1


def tuned(curve: Callable[[float], float], share: float, seed: int) -> Row:
    """One tuning: regret in deviations of a seed, cost in steps, and what it says."""
    runs = Runs(curve, share, seed)
    tuning = StrengthTuning(LOW, HIGH, seed=seed)
    while not tuning.done:
        plan = tuning.ask()
        value = runs.of(plan.strength, plan.seed)
        failed = value is None
        certain = 0.99 if failed else 0.5 if plan.strength == 0 else 0.0
        tuning.tell(plan.over(certain, CUT if failed else WHOLE, stopped_early=failed, value=value))
    found = concluded(tuning, [], "l2", "metric", 0, None)
    best = max(worth(curve, x) for x in tuning.strengths)
    choices = [x for x in tuning.strengths if worth(curve, x) >= best - 1e-9]
    chosen = found.best
    assert chosen is not None
    gain = curve(math.log10(chosen.strength)) - curve(-math.inf)
    return {
        "regret": round((best - worth(curve, chosen.strength)) / NOISE, 3),
        "strength": chosen.strength,
        "inside": any(chosen.low <= x <= chosen.high for x in choices),
        "steps": sum(t.steps for t in tuning.told),
        "trials": len(tuning.told),
        "gain": round(found.gain or 0.0, 4),
        "gain_off": round(abs((found.gain or 0.0) - gain), 4),
        "p": found.difference.p_value if found.difference else None,
    }


def grid(curve: Callable[[float], float], share: float, seed: int) -> Row:
    """All strengths with five seeds each, to their end; the best mean, a failed run counting .1."""
    runs = Runs(curve, share, 10_000 + seed)
    strengths = StrengthTuning(LOW, HIGH).strengths
    seen = [[runs.of(x, k) for k in range(SEEDS)] for x in strengths]
    means = [float(np.mean([0.1 if v is None else v for v in values])) for values in seen]
    chosen = strengths[int(np.argmax(means))]
    best = max(worth(curve, x) for x in strengths)
    return {
        "regret": round((best - worth(curve, chosen)) / NOISE, 3), "strength": chosen, "inside": "",
        "steps": len(strengths) * SEEDS * WHOLE, "trials": len(strengths) * SEEDS, "gain": "", "gain_off": "", "p": "",
    }  # fmt: skip


def cells(_: Options) -> list[Cell]:
    """Every curve, both ways, so many repeats."""
    every = product(CURVES, SHARES, WAYS, range(REPEATS))
    return [{"curve": name, "of_seed": share, "way": way, "seed": k} for name, share, way, k in every]


WAYS = {"tune": tuned, "grid": grid}


def repeat(cell: Cell, _: Options) -> Row:
    """One repeat."""
    return WAYS[cell["way"]](CURVES[cell["curve"]], cell["of_seed"], cell["seed"])


def table(rows: Sequence[Row]) -> str:
    """A line a curve, share of the seed and way."""
    lines = []
    for name, share, way in product(CURVES, SHARES, WAYS):
        key = (name, str(share), way)
        mine = [row for row in rows if (row["curve"], row["of_seed"], row["way"]) == key]
        regret, steps = (np.array([float(row[column]) for row in mine]) for column in ("regret", "steps"))
        inside = sum(row["inside"] == "True" for row in mine)
        told = sum(bool(row["p"]) and float(row["p"]) < 0.05 for row in mine)
        lines.append([
            name, f"{share:g}", way, f"{np.median(regret):.2f}", f"{np.quantile(regret, 0.9):.2f}",
            f"{(regret < 0.5).sum()} of {len(mine)}", f"{steps.mean():.0f}",
            *((f"{inside} of {len(mine)}", f"{told} of {len(mine)}") if way == "tune" else ("", "")),
        ])  # fmt: skip
    return markdown(
        ["curve", "of it the seed's", "way", "regret, median", "90 %", "below one half", "steps",
         "a best in the interval", "gain told from chance"], lines,
    )  # fmt: skip
