"""gradscope schedule: a strength schedule as a small curve."""

from __future__ import annotations

from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json


def schedule(
    text: Annotated[str, typer.Argument(help="The schedule, such as delayed:5, ramp:2000steps or taper:sch01.")],
    strength: Annotated[float, typer.Option(help="Regularization strength λ.")] = 1.0,
    penalty: Annotated[str, typer.Option(help="The penalty; for l2 the weight_decay is shown beside.")] = "l2",
    steps: Annotated[int, typer.Option(help="Optimizer steps to draw.")] = 1000,
    steps_per_epoch: Annotated[
        int | None, typer.Option(help="Steps in an epoch, where the schedule counts them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the strength over time that a schedule stands for."""
    from gradscope.checks import penalty_word
    from gradscope.quantities import Strength
    from gradscope.regularizers.curve import curve, drawn
    from gradscope.regularizers.schedules import parse_schedule

    word = penalty_word(penalty)
    made = parse_schedule(text, strength)
    found = curve(made, steps, steps_per_epoch)
    shown = Strength(strength, word)
    if as_json:
        print_json(
            {
                "schedule": made.text,
                "penalty": word,
                "strength": strength,
                "weight_decay": shown.weight_decay,
                "axis": found.axis,
                "at": found.at,
                "strengths": found.strength,
                "note": found.note,
            }
        )
        return
    print(f"{made.text}, {word}, {shown}" + (f"; {found.note}" if found.note else ""))
    print(drawn(found))
