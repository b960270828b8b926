"""What a live verdict costs a step (about five minutes).

One recorded training in short stretches, whose rows the judge reads and does not read in turn.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from unittest import mock

from analyses.benchmarks.toggled import toggled
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from gradscope.diagnosis.judge import Judge

PAIRS = 60


def cells(asked: Options) -> list[Cell]:
    """One training, whose rows are of two clocks."""
    return [{"clock": "wall"}]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """With the judge and without."""
    deaf = functools.partial(mock.patch.object, Judge, "update", lambda self, rows: None)
    with tempfile.TemporaryDirectory() as folder:
        return toggled(Path(folder) / "run.h5", deaf, asked.more["rounds"] or PAIRS)
