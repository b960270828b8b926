"""Many tunings of each task without a training: every run that a tuning asks for is looked up in the recorded grid.

Its five seeds stand in for as many as are asked for, in an order of their own a repeat, so that repeats differ by which
seeds come first. The choice is judged by a curve of the same seeds: it flatters a little, which real tunings do not.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.useful_strength.runs import GRID
from analyses.useful_strength.tasks import TASKS, named
from gradscope.trials.trial import Trial
from gradscope.tuning.ask_tell import StrengthTuning
from gradscope.tuning.trials_seen import PAIRED

FILE = "replayed.csv"
REPEATS = 20


def recorded(grid: Path) -> dict[tuple[str, float], dict[int, Row]]:
    """Rows of the grid from the start, by task and strength, then by seed."""
    found: dict[tuple[str, float], dict[int, Row]] = {}
    for row in Results(grid).rows():
        if row["schedule"] is None:
            found.setdefault((row["task"], row["strength"]), {})[row["seed"]] = row
    return found


def cells(asked: Options) -> list[Cell]:
    """Repeats of every task asked for whose grid is there, three seeds at least."""
    there = recorded(asked.out / GRID)
    whole = [
        task
        for task in map(named, asked.more["tasks"])
        if all(len(there.get((task.name, x), ())) > 2 for x in (0.0, *strengths(task.name)))
    ]
    return [{"task": task.name, "repeat": k} for task in whole for k in range(REPEATS)]


def strengths(task: str) -> list[float]:
    """Those that tune may try."""
    return StrengthTuning(TASKS[task].low, TASKS[task].high).strengths


def repeat(cell: Cell, asked: Options) -> Row:
    """One tuning: what it chose, and what its trials would have taken."""
    task, there = named(cell["task"]), recorded(asked.out / GRID)
    random = np.random.default_rng(cell["repeat"])
    orders = {paired: random.permutation(sorted(there[task.name, 0.0])) for paired in (False, True)}

    def run(plan: Trial) -> Trial:
        paired = plan.seed >= PAIRED
        order = orders[paired]
        row = there[task.name, plan.strength][int(order[(plan.seed - paired * PAIRED) % len(order)])]
        return plan.over(row["failed"], row["steps"], stopped_early=row["stopped"], value=row["accuracy"])

    tuning = StrengthTuning(task.low, task.high)
    while not tuning.done:
        tuning.tell(run(tuning.ask()))
    (best,) = tuning.finalists or (None,)
    return {
        "strength": best.strength if best else math.nan,
        "steps": sum(trial.steps for trial in tuning.told),
        "trials": len(tuning.told),
    }
