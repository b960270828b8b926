"""gradscope recover: saves what can be read of a damaged record into a new file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, tell


def recover(
    run: Annotated[Path, typer.Argument(help="A record left by a killed run, or damaged since. It is only read.")],
    output: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="The new file; RUN.recovered.h5 if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Save what can still be read of a damaged record.

    Every variable and row goes into a new file; what is missing is said. The damaged file is only read.
    """
    from gradscope.store.recovery import recover as save

    report = save(run, output)
    if as_json:
        print_json(report.as_dict())
        return
    tell(f"{report.output}: {report.rows} rows, {len(report.variables)} variables, {report.events} events")
    tell(f"  transaction log: {report.log}")
    if report.complete:
        tell("  nothing is missing")
    for name, spans in report.missing.items():
        rows = ", ".join(f"{first} to {last}" for first, last in spans)
        why = f" ({report.why[name]})" if name in report.why else ""
        tell(f"  {name}: rows {rows} cannot be read{why}")
    for name, reason in report.lost.items():
        tell(f"  {name} is lost: {reason}")
