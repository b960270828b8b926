"""gradscope plot: one figure to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from gradscope_cli.output import Json, print_json, say

from gradscope.types import InputError

if TYPE_CHECKING:
    from gradscope.report.curves import Curves, Panel


def plot(
    runs: Annotated[list[Path] | None, typer.Argument(help="Records. penalty-shapes does without.")] = None,
    figure: Annotated[str | None, typer.Option(help="Which figure; --list shows them.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="PNG, SVG or PDF file; default: FIGURE.png.")] = None,
    style: Annotated[str, typer.Option(help="screen, or paper: the width of a column, small letters, 300 dpi.")] = (
        "screen"
    ),
    dark: Annotated[bool, typer.Option("--dark", help="Light lines on a dark ground.")] = False,
    metric: Annotated[str, typer.Option(help="The epoch metric that accuracy figures show.")] = "accuracy",
    against: Annotated[
        str | None, typer.Option(help="The axis of figures over time: step, epoch or strength (how the runs end).")
    ] = None,
    parameter: Annotated[
        str | None, typer.Option(metavar="NAME|REGEX", help="Of these parameters only; figures over time, by layer.")
    ] = None,
    group: Annotated[int | None, typer.Option(help="Of this parameter group of the optimizer only.")] = None,
    quantity: Annotated[str, typer.Option(help="layers-map: gradient, penalty, proportion or weight.")] = "gradient",
    steps: Annotated[str, typer.Option(metavar="STEP,...", help="depth: the steps that are shown.")] = "",
    list_them: Annotated[bool, typer.Option("--list", help="List the figures and leave.")] = False,
    as_json: Json = False,
) -> None:
    """Draw one figure from one or several records.

    More than twelve runs of several strengths are drawn by how they end, against their strength.
    """
    from gradscope.report.figure_kinds import FIGURES

    if list_them:
        _list(FIGURES, as_json)
        return
    if figure is None:
        raise InputError(f"no --figure was given; expected one of {', '.join(FIGURES)} (gradscope plot --list)")
    from gradscope import checks
    from gradscope.report.figures import check_target, figure_of, save
    from gradscope.report.style import style as look

    checks.one_of(figure, FIGURES, "figure")
    if against is not None:
        checks.one_of(against, ("step", "epoch", "strength"), "--against")
    chosen = look(style, dark=dark)
    path = out or Path(f"{figure}.png")
    check_target(path)
    panels = _panels(runs or [], figure, metric, against, (parameter, group), quantity, steps)
    save(figure_of(panels, chosen), path, chosen)
    if as_json:
        more = {"panels": [panel.as_dict() for panel in panels[1:]]} if len(panels) > 1 else {}
        print_json({"path": str(path), "figure": figure, **panels[0].as_dict(), **more})
        return
    for note in dict.fromkeys(note for panel in panels for note in panel.notes):
        say(note)
    say(f"wrote {path}")


def _panels(
    runs: Sequence[Path],
    figure: str,
    metric: str,
    against: str | None,
    chosen: tuple[str | None, int | None],
    quantity: str,
    steps: str,
) -> Sequence[Panel]:
    from gradscope import checks
    from gradscope.report.figure_kinds import SHAPES, Wanted, panels_of
    from gradscope.report.layers import SHOWN, LayerChoice

    if figure == SHAPES:
        return _shapes(runs)
    if not runs:
        raise InputError(f"no record was given; figure {figure} is drawn from at least one")
    from gradscope.report.summary import load_run

    axis = cast('Literal["step", "epoch", "strength"] | None', against)
    checks.one_of(quantity, [q.word for q in SHOWN], "--quantity")
    choice, wanted_steps = LayerChoice(*chosen), tuple(_step(word) for word in steps.split(",") if word.strip())
    found = [load_run(run, choice=choice) for run in runs]
    return panels_of(found, figure, Wanted(metric, axis, choice, quantity, wanted_steps))


def _step(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"--steps holds {word.strip()!r}; expected optimizer steps, such as 0,100,1000") from None


def _shapes(runs: Sequence[Path]) -> list[Curves]:
    """Draw the penalties that act in the records; without any, a family of norms."""
    from gradscope.regularizers.shapes import FAMILY, penalty_shape, penalty_words
    from gradscope.report.weights import Shape, penalty_shapes
    from gradscope.store.record import Record

    words: list[str] = []
    for run in runs:
        with Record(run) as record:
            words += penalty_words(record.penalty)
    found = [penalty_shape(word) for word in dict.fromkeys(words or FAMILY)]
    return penalty_shapes([Shape(s.name, s.w, s.value, s.gradient, *s.ball) for s in found])


def _list(figures: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json({"figures": figures})
        return
    width = max(map(len, figures))
    for name, shows in figures.items():
        print(f"{name:<{width}}  {shows}")
