"""The strength worth using: what tune finds, and at what price, beside a dense grid and Optuna alone."""

from __future__ import annotations

from analyses.common.study import Options, Part, Study
from analyses.useful_strength import replayed, runs, simulated, tables
from analyses.useful_strength.tasks import TASKS
from gradscope.types import InputError

#: Parts that train.
TRAINED = ("grid", "tunings", "optuna")


def look(asked: Options) -> None:
    """The data of what is trained. Raises `InputError` where some is missing."""
    for task in asked.more["tasks"] if set(asked.only) & set(TRAINED) else ():
        try:
            TASKS[task].data()
        except InputError as error:
            others = " ".join(name for name in asked.more["tasks"] if name != task)
            raise InputError(f"{error}; or leave it out" + (f": --tasks {others}" if others else "")) from None


STUDY = Study(
    "useful_strength",
    {
        "simulated": Part(simulated.cells, simulated.repeat, simulated.FILE, here=True),
        "grid": Part(runs.grid, runs.run, runs.GRID, here=True),
        "replayed": Part(replayed.cells, replayed.repeat, replayed.FILE, here=True),
        "tunings": Part(runs.tunings, runs.tuning, runs.TUNINGS, here=True),
        "optuna": Part(runs.studies, runs.study, runs.OPTUNA, here=True),
    },
    tables.tables, tables.figures, look=look, seeds=5, options=runs.OPTIONS,
)  # fmt: skip
