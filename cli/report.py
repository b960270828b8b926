"""gradscope report: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, say


def report(
    runs: Annotated[list[Path], typer.Argument(help="Records, finished or still being written.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write one self-contained page on one or several runs.

    Verdict and remedy, layers over time, events, what each number means. Several runs are compared, such as a failed
    one against the same one delayed. The page opens from disk in any browser and fetches nothing.
    """
    from gradscope.report.page.document import report as write

    page = write(runs, out)
    if as_json:
        print_json({"path": str(out), "bytes": out.stat().st_size, "runs": [run.as_dict() for run in page.runs]})
        return
    for run in page.runs:
        say(run.sentence)
    say(f"wrote {out}")
