"""The strength worth using: what tune finds, and at what price, beside a dense grid and Optuna alone."""

from __future__ import annotations

from analyses.common.study import Part, Study
from analyses.useful_strength import replayed, runs, simulated, tables

STUDY = Study(
    "useful_strength",
    {
        "simulated": Part(simulated.cells, simulated.repeat, simulated.FILE, here=True),
        "grid": Part(runs.grid, runs.run, runs.GRID, here=True),
        "replayed": Part(replayed.cells, replayed.repeat, replayed.FILE, here=True),
        "tunings": Part(runs.tunings, runs.tuning, runs.TUNINGS, here=True),
        "optuna": Part(runs.studies, runs.study, runs.OPTUNA, here=True),
    },
    tables.tables, tables.figures, seeds=5, options=runs.OPTIONS,
)  # fmt: skip
