"""gradscope compare: records side by side."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gradscope_cli.output import Json, print_json, say, shorter, tell

from gradscope.card import SHORT, plain

if TYPE_CHECKING:
    from gradscope.report.comparison import Comparison

#: More records than this are rows of the tables, not columns.
ACROSS = 4


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Records, two or more.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Draw the curves to a PNG, SVG or PDF file.")] = None,
    style: Annotated[str, typer.Option(help="Of the figure: screen or paper.")] = "screen",
    dark: Annotated[bool, typer.Option("--dark", help="Light lines on a dark ground.")] = False,
    as_json: Json = False,
) -> None:
    """Set records side by side: settings, verdicts, numbers, curves.

    Of the settings, those that differ are shown.
    """
    from gradscope.report.comparison import compare as side_by_side
    from gradscope.report.comparison import panels

    if out is not None:
        from gradscope.report.figures import check_target

        check_target(out)
    found = side_by_side(runs)
    if out is not None:
        from gradscope.report.figures import figure_of, save
        from gradscope.report.style import style as look

        chosen = look(style, dark=dark)
        save(figure_of(panels(found), chosen), out, chosen)
        say(f"wrote {out}")
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)


def _print(found: Comparison) -> None:
    marks = _marks(len(found.sides))
    for mark, side in zip(marks, found.sides, strict=True):
        tell(f"{mark}  {side.path}: {side.sentence}")
    tell(f"\nsettings that differ ({found.alike} are the same):")
    _table(
        marks, {name: ["–" if v is None else v.strip('"') for v in values] for name, values in found.differing.items()}
    )
    tell("\nnumbers:")
    names = list(dict.fromkeys(name for side in found.sides for name in side.numbers))
    _table(marks, {name: [shorter(side.numbers.get(name), 4) for side in found.sides] for name in names})
    for note in found.notes:
        tell(f"  {note}")
    if found.costs:
        tell("\nwhat the penalty costs or gains:")
    for line in found.costs:
        tell(f"  {line}")
    _curves(marks, found)


def _marks(count: int) -> list[str]:
    letters = string.ascii_uppercase
    return [letters[k] if count <= len(letters) else str(k + 1) for k in range(count)]


def _table(marks: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print names down and records across, or the other way round where there are many."""
    if not rows:
        tell("  none")
        return
    if len(marks) <= ACROSS:
        lines = [["", *marks], *([name, *values] for name, values in rows.items())]
    else:
        lines = [["", *rows], *([mark, *(values[k] for values in rows.values())] for k, mark in enumerate(marks))]
    lines = [[*(plain(cell, SHORT) for cell in line[:-1]), line[-1]] for line in lines]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    for line in lines:
        tell("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _curves(marks: Sequence[str], found: Comparison) -> None:
    """Print each quantity on one scale for all records, so that heights can be compared."""
    import numpy as np

    from gradscope.report.sparkline import sparkline

    for curves in found.curves.values():
        values = np.concatenate([c.y for c in curves.curves])
        values = values[np.isfinite(values) & ((values > 0) | (not curves.log_y))]
        if not len(values):
            continue
        tell(f"\n{curves.title}, over {curves.x_label}s:")
        low, high = float(values.min()), float(values.max())
        for mark, curve in zip(marks, curves.curves, strict=True):
            line = sparkline(curve.y, 40, log=curves.log_y, low=low, high=high)
            ends = f"{shorter(float(curve.y[0]))} → {shorter(float(curve.y[-1]))}" if len(curve.y) else "not recorded"
            tell(f"  {mark}  {line:<40}  {ends}")
