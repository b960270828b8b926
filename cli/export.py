"""gradscope export: a record for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, say


def export(
    run: Annotated[Path, typer.Argument(help="A record: finished, running or left by a killed process.")],
    to: Annotated[str, typer.Option(help="tensorboard, netcdf, zarr, parquet or csv.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File or folder to write; default: beside RUN.")
    ] = None,
    variables: Annotated[
        str, typer.Option(help="Only these variables, with commas between: loss,proportion,weight_*.")
    ] = "",
    parameters: Annotated[
        str | None, typer.Option(help="Only parameters and modules whose name holds this regular expression.")
    ] = None,
    every: Annotated[int, typer.Option(help="One row of so many.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: Json = False,
) -> None:
    """Hand a record to TensorBoard, netCDF, Zarr, Parquet or CSV.

    The output appears when it is complete. Parquet and CSV have one row a step; parameters, epochs, events and
    histograms are tables of their own beside it. A long record of many parameters is small for TensorBoard with:

    gradscope export run.h5 --to tensorboard --variables 'loss,proportion' --every 10
    """
    from gradscope.export.export import export as write
    from gradscope.export.source import Choice

    names = [name.strip() for name in variables.split(",") if name.strip()]
    made = write(run, to, out, force=force, choice=Choice(names, parameters, every))
    if as_json:
        beside = [str(path) for path in made.beside]
        print_json({"path": str(made.path), "to": to, "rows": made.rows, "beside": beside})
        return
    more = f", and beside it {', '.join(path.name for path in made.beside)}" if made.beside else ""
    say(f"wrote {made.path}: {made.rows} rows{more}")
