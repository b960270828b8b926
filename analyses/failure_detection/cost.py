"""What a live verdict costs a step: python -m analyses.failure_detection.cost (about five minutes; writes cost.csv).

One recorded training in short stretches, whose rows the judge reads and does not read in turn.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from unittest import mock

import pandas as pd

from analyses.common.study import machine
from analyses.common.toggled import toggled
from analyses.failure_detection.records import HERE
from gradscope.diagnosis.judge import Judge

PAIRS = 60


def main() -> None:
    """Measure and write."""
    deaf = functools.partial(mock.patch.object, Judge, "update", lambda self, rows: None)
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame(toggled(Path(folder) / "run.h5", deaf, PAIRS))
    table["machine"] = machine()
    table.to_csv(HERE / "cost.csv", index=False)
    print(table)


if __name__ == "__main__":
    main()
