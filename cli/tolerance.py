"""gradscope tolerance: the tolerance level from runs already recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, shorter, tell


def tolerance(
    runs: Annotated[list[Path], typer.Argument(help="Records that differ in strength and seed only.")],
    by: Annotated[str | None, typer.Option(help="A setting that differs: one level for each of its values.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A figure of runs, fitted curve and interval: .png, .svg, .pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the strength beyond which learning fails, from records."""
    from gradscope.quantities import Strength
    from gradscope.tolerance.from_records import tolerance_of_runs
    from gradscope.types import InputError

    if out is not None and by is not None:
        raise InputError("-o draws one level; leave out --by, and give the runs of one value")
    found = tolerance_of_runs(runs, by, os.cpu_count() or 1)
    if out is not None:
        _draw(runs, out)
    if as_json:
        print_json(found)
        return
    for label, level in found["levels"].items() if by else {"": found}.items():
        name = f"{by} {label}: " if by else ""
        if not level["determined"]:
            tell(f"{name}not determined: {level['reason']}")
            continue
        tell(
            f"{name}tolerance level {Strength(level['tolerance'], level['penalty'])}, "
            f"95 % interval of λ {shorter(level['low'])} … {shorter(level['high'])}, "
            f"{level['penalty']}, {level['trials']} runs: {level['reason']}; {level['advice']}"
        )


def _draw(runs: list[Path], out: Path) -> None:
    from gradscope.report.level import draw_levels, level_summary
    from gradscope.tolerance.from_records import outcomes_of
    from gradscope.tolerance.posterior import posterior_of

    penalty, outcomes = outcomes_of(runs, os.cpu_count() or 1)
    if not outcomes:
        return
    posterior = posterior_of(outcomes)
    shown = level_summary("tolerance level", posterior, outcomes, posterior.estimate(outcomes))
    draw_levels([shown], penalty, out)
