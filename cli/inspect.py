"""gradscope inspect: what a record holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, shorter


def inspect(
    run: Annotated[Path, typer.Argument(help="A record.")],
    as_json: Json = False,
) -> None:
    """Show what a record holds: parameters, steps, ranges, and what each number means in this run."""
    from gradscope.report.overview import overview
    from gradscope.store.reader import open_run

    with open_run(run) as dataset:
        seen = overview(dataset)
    if as_json:
        print_json({"path": str(run), **seen})
        return
    print(f"{run}: {seen['status']}, {seen['rows']} rows, steps {seen['first_step']} to {seen['last_step']}")
    print(f"  {seen['optimizer']}, penalty {seen['penalty']}, schedule {seen['schedule']}, preset {seen['preset']}")
    strength = seen["strength"]
    decay = f" (weight_decay {2 * strength:g})" if seen["penalty"] == "l2" else ""
    print(f"  strength {strength:g}{decay}, baseline loss {shorter(seen['baseline_loss'], 4)}")
    print(f"  {len(seen['parameters'])} parameters, {seen['entries']} entries:")
    width = max(len(p["name"]) for p in seen["parameters"])
    for p in seen["parameters"]:
        mark = "penalised" if p["penalised"] else "free"
        print(f"    {p['name']:<{width}}  {p['shape']!s:<16} {mark}")
    print("  ranges (smallest and largest finite value):")
    width = max(len(name) for name in seen["ranges"])
    for name, (low, high) in seen["ranges"].items():
        print(f"    {name:<{width}}  {shorter(low)} … {shorter(high)}")
    print("  capture:")
    for name, value in seen["capture"].items():
        print(f"    {name}: {value}")
