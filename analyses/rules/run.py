"""False alarms of the rules on runs that learn: python -m analyses.rules.run (some minutes on two cores).

Writes findings.csv: the runs of analyses/judge_first_look at the lower end of its strengths, each with what the rules
find. Goes on where it stopped: rows are appended as they come.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import gradscope
from analyses.common.digits import Setting, at_once, train
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.rules.post_hoc import check

TABLE = Path(__file__).parent / "findings.csv"
#: Weight layers: learning rate and strengths (the lower end of the grid of judge_first_look).
GRID = {
    6: (0.03, (0.0, 0.03)),
    8: (0.03, (0.0, 0.0237)),
    10: (0.03, (0.0, 0.01, 0.02)),
}
SETTINGS = [
    Setting(layers, init, lr, strength, seed)
    for layers, (lr, strengths) in GRID.items()
    for init in ("he", "pytorch")
    for strength in strengths
    for seed in range(3)
]


def findings(setting: Setting) -> dict[str, Any]:
    """One run: whether it learned by the label, and the rules that spoke, each with its first step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        train(setting, path)
        with gradscope.open_run(path) as dataset:
            learned = judge_record(dataset).learned()
            found = check(dataset).findings
    first = {f"{finding.rule}/{finding.kind}": finding.since_step for finding in reversed(found)}
    told = " ".join(f"{name}@{step}" for name, step in sorted(first.items()))
    return {**dataclasses.asdict(setting), "learned": learned, "found": told}


def main() -> None:
    """The table, and a count of its last column."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    fields = [field.name for field in dataclasses.fields(Setting)]
    done = {tuple(row[name] for name in fields) for row in rows()}
    left = [s for s in SETTINGS if tuple(str(value) for value in dataclasses.asdict(s).values()) not in done]
    with TABLE.open("a", newline="") as file:
        table = csv.DictWriter(file, [*fields, "learned", "found"], lineterminator="\n")
        if not done:
            cpu = platform.processor() or platform.machine()
            file.write(f"# {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, {platform.system()} {cpu}\n")
            table.writeheader()
        for _, row in at_once(findings, left, workers):
            table.writerow(row)
            file.flush()
    whole = rows()
    learned = [row for row in whole if row["learned"] == "True"]
    spoke = sum(bool(row["found"]) for row in learned)
    print(f"{len(whole)} runs, {len(learned)} learned, {spoke} of these with a finding")


def rows() -> list[dict[str, str]]:
    """What stands in the table."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


if __name__ == "__main__":
    main()
