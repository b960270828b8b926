"""gradscope demo: the main job on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json


def demo(
    out: Annotated[Path, typer.Option(help="A new folder for records, figures and the summary.")] = Path(
        "gradscope-demo"
    ),
    as_json: Json = False,
) -> None:
    """Show the main job on real data, in a minute or two.

    A penalty that is too strong fails, is found out early, is restarted with a delay and learns; the tolerance
    level is found; figures and a report are written.
    """
    from gradscope.demo.show import show

    result = show(out)
    if as_json:
        print_json(result)
