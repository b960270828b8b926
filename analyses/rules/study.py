"""False alarms of the rules beside the verdict, on runs that learn.

The runs of analyses/judge_first_look at the lower end of its strengths, each with what the rules find.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import gradscope
from analyses.common.digits import Setting, train
from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options, Part, Study
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.rules.post_hoc import check

FILE = "findings.csv"
#: Weight layers: learning rate and strengths (the lower end of the grid of judge_first_look).
GRID = {
    6: (0.03, (0.0, 0.03)),
    8: (0.03, (0.0, 0.0237)),
    10: (0.03, (0.0, 0.01, 0.02)),
}


def cells(asked: Options) -> list[Cell]:
    """Both initialisations at every strength."""
    return [
        dataclasses.asdict(Setting(layers, init, lr, strength, seed))
        for layers, (lr, strengths) in GRID.items()
        for init in ("he", "pytorch")
        for strength in strengths
        for seed in range(asked.seeds)
    ]


def findings(cell: Cell, asked: Options) -> Row:
    """One run: whether it learned by the label, and the rules that spoke, each with its first step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        train(Setting(**cell), path)
        with gradscope.open_run(path) as dataset:
            learned = judge_record(dataset).learned()
            found = check(dataset).findings
    first = {f"{finding.rule}/{finding.kind}": finding.since_step for finding in reversed(found)}
    told = " ".join(f"{name}@{step}" for name, step in sorted(first.items()))
    return {"learned": learned, "found": told}


def tables(folder: Path) -> dict[str, str]:
    """A count of the last column."""
    rows = Results(folder / FILE).recorded()
    learned = [row for row in rows if row["learned"] == "True"]
    spoke = sum(bool(row["found"]) for row in learned)
    return {"count.txt": f"{len(rows)} runs, {len(learned)} learned, {spoke} of these with a finding\n"}


STUDY = Study("rules", {"findings": Part(cells, findings, FILE)}, tables, seeds=3)
