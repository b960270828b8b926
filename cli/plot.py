"""gradscope plot: one figure to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, say


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Records.")],
    figure: Annotated[str, typer.Option(help="accuracy, gradient, gradient-closeup, proportion, weight, loss.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="PNG, SVG or PDF file.")] = None,
    as_json: Json = False,
) -> None:
    """Draw one figure from one or several records."""
    from gradscope.report.figures import draw

    path = out or Path(f"{figure}.png")
    shown = draw(runs, figure, path)
    if as_json:
        print_json({"path": str(path), "figure": figure, **shown.as_dict()})
    else:
        say(f"wrote {path}")
