"""The labels at three times the horizon: python -m analyses.failure_detection.check (writes checked.csv, resumable).

Every stalled run, and 5 % of the other failures, are trained again for three times as long, with the same seed.
"""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np

from analyses.common.tasks import task
from analyses.failure_detection.families import CONFIGURATIONS
from analyses.failure_detection.records import HERE
from analyses.failure_detection.run import Table, below_baseline, hard_negatives, other_failures
from analyses.failure_detection.training import Change, Run, losses_beyond

FIELDS = ("run", "cause", "steps", "loss_end", "failed")


def of_line(row: dict[str, str]) -> Run:
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


def due(row: dict[str, str]) -> bool:
    """Every stall; of the other failures one in twenty, the same ones every time."""
    return row["cause"] == "stalled" or (row["failed"] == "True" and zlib.crc32(row["run"].encode()) % 20 == 0)


def main() -> None:
    """Train what is due and not done."""
    with Path(HERE / "verdicts.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if due(row)]
    checked = Table(HERE / "checked.csv", FIELDS)
    for row in rows:
        if row["run"] in checked.rows:
            continue
        run = of_line(row)
        steps = 3 * run.configuration.steps
        end = float(np.mean(losses_beyond(run, steps)[-steps // 20 :]))
        failed = not below_baseline(end, task(run.configuration.task).baseline)
        checked.add({"run": run.key, "cause": row["cause"], "steps": steps, "loss_end": f"{end:.5g}", "failed": failed})
    flipped = sum(row["failed"] == "False" for row in checked.rows.values())
    print(f"{len(checked.rows)} checked, {flipped} learn by three times the horizon")


if __name__ == "__main__":
    main()
