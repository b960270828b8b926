"""gradscope diagnose: verdict, evidence, onset, layers, remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gradscope_cli.output import Json, print_json, say

from gradscope.types import InputError

if TYPE_CHECKING:
    from gradscope.diagnosis.verdict import Diagnosis


def diagnose(
    runs: Annotated[list[Path], typer.Argument(help="Records, finished or still being written.")],
    follow: Annotated[bool, typer.Option(help="Follow one running record until it ends, telling each change.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a recorded run learns, and if not why, since when, and what to do.

    Exits with 3 if a learning failure was found in any run.
    """
    from gradscope.diagnosis.post_hoc import diagnose as judge
    from gradscope.store.reader import open_run

    if follow:
        if len(runs) != 1:
            raise InputError(f"{len(runs)} records were given; --follow takes one")
        _follow(runs[0])
    found = []
    for path in runs:
        with open_run(path) as dataset:
            found.append((path, judge(dataset)))
    if as_json:
        print_json({"runs": [{"path": str(path), **diagnosis.as_dict()} for path, diagnosis in found]})
    else:
        for path, diagnosis in found:
            _print(path, diagnosis)
    if any(diagnosis.failed for _, diagnosis in found):
        raise typer.Exit(3)


def _follow(path: Path) -> None:
    """Tell each change of the verdict as the rows come, until the run has ended."""
    from gradscope.diagnosis.judge import Judge
    from gradscope.diagnosis.post_hoc import NEEDED
    from gradscope.diagnosis.series import RunInfo
    from gradscope.store.follow import follow
    from gradscope.store.reader import open_run

    judge, told = None, ""
    for block in follow(path, NEEDED):
        if judge is None:
            with open_run(path) as dataset:
                judge = Judge(RunInfo.from_record(dataset["parameter"].values, dataset, dataset.attrs))
        judge.update(block)
        diagnosis = judge.diagnosis()
        if diagnosis.verdict != told:
            told = diagnosis.verdict
            say(f"step {int(block['step'][-1])}: {diagnosis.sentence}")


def _print(path: Path, diagnosis: Diagnosis) -> None:
    print(f"{path}: {diagnosis.sentence}")
    for line in diagnosis.evidence:
        print(f"  {line}")
    if diagnosis.layers:
        print(f"  it shows most in {', '.join(diagnosis.layers)}")
    if diagnosis.remedy:
        print(f"  remedy: {diagnosis.remedy}")
