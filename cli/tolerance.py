"""gradscope tolerance: the tolerance level from runs already recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, shorter


def tolerance(
    runs: Annotated[list[Path], typer.Argument(help="Records that differ in strength and seed only.")],
    by: Annotated[str | None, typer.Option(help="A setting that differs: one level for each of its values.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate, from runs already recorded, the strength beyond which learning fails."""
    from gradscope.report.tolerance import tolerance_of_runs

    found = tolerance_of_runs(runs, by)
    if as_json:
        print_json(found)
        return
    for label, level in found["levels"].items() if by else {"": found}.items():
        name = f"{by} {label}: " if by else ""
        if not level["determined"]:
            print(f"{name}not determined: {level['reason']}")
            continue
        decay = f"; weight_decay {shorter(level['weight_decay'])}" if level["weight_decay"] is not None else ""
        print(
            f"{name}tolerance level {shorter(level['tolerance'])} "
            f"(95 % interval {shorter(level['low'])} … {shorter(level['high'])}{decay}), "
            f"{level['penalty']}, {level['trials']} runs: {level['reason']}"
        )
