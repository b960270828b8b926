"""gradscope diagnose: verdict, evidence, onset, layers, remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json


def diagnose(
    runs: Annotated[list[Path], typer.Argument(help="Records, finished or still being written.")],
    as_json: Json = False,
) -> None:
    """Say whether a recorded run learns, and if not why, since when, and what to do.

    Exits with 3 if a learning failure was found in any run.
    """
    from gradscope.diagnosis.post_hoc import diagnose as judge
    from gradscope.store.reader import open_run

    found = []
    for path in runs:
        with open_run(path) as dataset:
            found.append((path, judge(dataset)))
    if as_json:
        print_json({"runs": [{"path": str(path), **diagnosis.as_dict()} for path, diagnosis in found]})
    else:
        for path, diagnosis in found:
            print(f"{path}: {diagnosis.sentence}")
            for line in diagnosis.evidence:
                print(f"  {line}")
            if diagnosis.layers:
                print(f"  it shows most in {', '.join(diagnosis.layers)}")
            if diagnosis.remedy:
                print(f"  remedy: {diagnosis.remedy}")
    if any(diagnosis.failed for _, diagnosis in found):
        raise typer.Exit(3)
