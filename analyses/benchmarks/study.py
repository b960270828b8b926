"""What gradscope costs: the recorder a step, penalties, the store, the judge, large records, the start of a trial."""

from __future__ import annotations

from pathlib import Path

from analyses.benchmarks import (
    extension,
    growth,
    kernels,
    opening,
    overhead,
    penalties,
    scale,
    startups,
    step_cost,
    store,
    verdict,
)
from analyses.benchmarks.cases import WATCHERS
from analyses.common.study import Part, Study

STUDY = Study(
    "benchmarks",
    {
        "kernels": Part(kernels.cells, kernels.measure, "kernels.csv", here=True),
        "overhead": Part(overhead.cells, overhead.measured, "overhead-{device}.csv", here=True),
        "growth": Part(growth.cells, growth.ratio, "growth-{device}.csv", here=True),
        "long": Part(growth.long_cells, growth.long_run, "long-{device}.csv", here=True),
        "step-cost": Part(step_cost.cells, step_cost.measured, "step-cost.csv", here=True),
        "extension": Part(extension.cells, extension.measured, "extension.csv", here=True),
        "penalties": Part(penalties.cells, penalties.compare, "penalties.csv", here=True),
        "writing": Part(store.writing_cells, store.writing, "writing.csv", here=True),
        "reading": Part(store.reading_cells, store.reading, "reading.csv", here=True),
        "training": Part(verdict.cells, store.training, "training.csv", here=True),
        "verdict": Part(verdict.cells, verdict.measured, "verdict.csv", here=True),
        "scale": Part(scale.cells, scale.measured, "scale.csv", here=True),
        "opening": Part(opening.cells, opening.measured, "opening.csv", here=True),
        "startups": Part(startups.cells, startups.measured, "startups.csv", here=True),
    },
    options={
        "--rounds": {"type": int, "help": "default: each measurement's own"},
        "--nets": {"nargs": "+", "help": "overhead, step-cost, extension: parts of their names"},
        "--ways": {"nargs": "+", "choices": tuple(WATCHERS), "help": "overhead: of watching; bare is always there"},
        "--presets": {"nargs": "+", "choices": step_cost.PRESETS, "default": step_cost.PRESETS, "help": "step-cost"},
        "--beside": {"type": Path, "help": "step-cost: another checkout, measured in the same rounds"},
        "--trials": {"type": int, "default": 8, "help": "startups: of a search; default: %(default)s"},
        "--width": {"type": int, "default": 64, "help": "startups: of the net; default: %(default)s"},
        "--batch": {"type": int, "default": 64, "help": "startups: of the net; default: %(default)s"},
    },
)
