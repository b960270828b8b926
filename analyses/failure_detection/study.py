"""A public benchmark of the judge: false alarms, catches, delay and calibration, beside the rules of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analyses.common.results import Results
from analyses.common.study import Part, Study
from analyses.failure_detection import ceiling, check, coherence, fit, long, metrics, plot, searched, siblings
from analyses.failure_detection.families import FAMILIES
from analyses.failure_detection.records import CACHE
from analyses.failure_detection.run import train_all
from analyses.failure_detection.score import score
from analyses.failure_detection.third import figures as third
from analyses.failure_detection.third.judged import NAMES, cells, judged


def tables(folder: Path) -> dict[str, str]:
    """Figures of merit, and what each part beside the benchmark says."""
    return {
        "scores.md": metrics.scores(folder),
        "beside.md": "\n\n".join(f"## {title}\n\n{text}" for title, text in _beside(folder)) + "\n",
    }


def _beside(folder: Path) -> Iterator[tuple[str, str]]:
    yield "At three times the horizon", check.told(Results(folder / "checked.csv").recorded())
    yield "Runs four times as long", long.told(pd.read_csv(folder / "long.csv", comment="#"))
    yield "What anyone could know after two epochs", "\n".join(ceiling.lines(folder))
    yield "What gradient coherence would add", "\n".join(coherence.lines(folder))
    yield "Searches beside siblings", searched.told(Results(folder / "searched.csv").recorded())
    rows = Results(folder / "third.csv").recorded()
    yield "A small third edition", "\n".join(third.figures(rows))
    yield "Misses of the third edition", "\n".join(f"* {line}" for line in third.misses(rows))


STUDY = Study(
    "failure_detection",
    {
        "runs": train_all,
        "check": Part(check.cells, check.train, "checked.csv"),
        "fit": fit.fit_shipped,
        "score": score,
        "long": Part(long.cells, long.judged, "long.csv"),
        "ceiling": Part(ceiling.cells, ceiling.continued, "ceiling.csv"),
        "coherence": Part(coherence.cells, coherence.measured, "coherence.csv"),
        "siblings": siblings.siblings,
        "searched": Part(searched.cells, searched.searched, "searched.csv"),
        "third": Part(cells, judged, "third.csv"),
    },
    tables,
    plot.figures,
    checks=lambda folder: [*fit.wrong(), *siblings.wrong()],
    seeds=1,
    usual=("runs",),
    options={
        "--cache": {"type": Path, "default": CACHE, "help": "runs, fit, score: the rows that the judge would see"},
        "--families": {"nargs": "+", "choices": FAMILIES, "default": FAMILIES, "help": "runs, long: share the work"},
        "--rounds": {"type": int, "nargs": "+", "default": range(4), "help": "runs: which of each family"},
        "--features": {"action": "store_true", "help": "fit: make features.csv.gz from the cache first"},
        "--in-sample": {"action": "store_true", "help": "score: by one model that was fitted on all"},
        "--copies": {"type": int, "default": 4, "help": "ceiling: of each run"},
        "--levels": {"action": "store_true", "help": "siblings: make siblings.csv.gz from the cache first"},
        "--shuffled": {"action": "store_true", "help": "siblings: the control"},
        "--alone": {"action": "store_true", "help": "siblings: without what became of them"},
        "--cases": {"nargs": "+", "choices": NAMES, "help": "third: some alone"},
        "--from-seed": {"type": int, "default": 0, "help": "third: the first of the seeds"},
    },
)
