"""The labels at three times the horizon.

Every stalled run, and 5 % of the other failures, are trained again for three times as long, with the same seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.common.tasks import task
from analyses.failure_detection.families import CONFIGURATIONS
from analyses.failure_detection.records import RESULTS
from analyses.failure_detection.run import below_baseline, hard_negatives, other_failures
from analyses.failure_detection.training import Change, Run, losses_beyond


@cache
def judged_runs() -> dict[str, Row]:
    """The lines of verdicts.csv by their runs."""
    return Results(RESULTS / "verdicts.csv").by("run")


def of_line(row: Row) -> Run:
    """The run that a line of verdicts.csv is about."""
    name, number = row["run"].rsplit("-", 1)
    key, stratum = name.rsplit("/", 1)
    c = next(c for c in CONFIGURATIONS if c.key == key)
    index = [other for other in CONFIGURATIONS if other.family == c.family].index(c)
    change = Change(delay=c.steps // 5) if stratum == "delayed" else Change()
    if stratum in ("hard", "other"):
        planned = hard_negatives(c, 1.0) if stratum == "hard" else other_failures(c, 1.0, index)
        change = next(run.change for run in planned if run.number == int(number))
    return Run(c, stratum, int(number), float(row["strength"]), change)


def due(row: Row) -> bool:
    """Every stall; of the other failures one in twenty, the same ones every time."""
    return row["cause"] == "stalled" or (row["failed"] == "True" and zlib.crc32(row["run"].encode()) % 20 == 0)


def cells(asked: Options) -> list[Cell]:
    """The runs that are due."""
    return [{"run": run} for run, row in judged_runs().items() if due(row)]


def train(cell: Cell, asked: Options) -> Row:
    """One run, three times as long."""
    row = judged_runs()[cell["run"]]
    run = of_line(row)
    steps = 3 * run.configuration.steps
    end = float(np.mean(losses_beyond(run, steps)[-steps // 20 :]))
    failed = not below_baseline(end, task(run.configuration.task).baseline)
    return {"cause": row["cause"], "steps": steps, "loss_end": f"{end:.5g}", "failed": failed}


def told(rows: Sequence[Row]) -> str:
    """How many were labelled too early."""
    flipped = sum(row["failed"] == "False" for row in rows)
    return f"{len(rows)} checked, {flipped} learn by three times the horizon"
