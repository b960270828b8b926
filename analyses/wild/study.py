"""Public training code under a recording: is it left as it is, and are the numbers right?"""

from __future__ import annotations

from pathlib import Path

from analyses.common.study import Study
from analyses.wild import run, table

STUDY = Study(
    "wild",
    {"cases": run.run, "page": table.write},
    lambda folder: {"table.md": table.table(folder)},
    checks=table.wrong,
    usual=("cases",),
    options={
        "--sources": {"type": Path, "help": "cases: a folder of checkouts as owner+name"},
        "--preset": {
            "choices": ("standard", "full"),
            "default": "standard",
            "help": "cases: of the recordings; results of full lie in full.jsonl",
        },
        "--cases": {"nargs": "+", "metavar": "PART", "help": "cases: parts of names; these are run again"},
    },
)
