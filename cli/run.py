"""gradscope run: supervise a training command, restart it with a delay if it fails to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, say


def run(
    command: Annotated[list[str], typer.Argument(help="The training command, after --.", metavar="-- COMMAND…")],
    strength: Annotated[
        float | None, typer.Option(help="Regularization strength λ; without it the script's own.")
    ] = None,
    penalty: Annotated[str, typer.Option(help="The penalty the strength belongs to: l2, l1, l1l2, linf, l3 …")] = "l2",
    schedule: Annotated[str | None, typer.Option(help="Schedule of the first attempt, such as delayed:5.")] = None,
    restart: Annotated[str, typer.Option(help="delayed (auto), delayed:5, delayed:2000steps, or none.")] = "delayed",
    max_restarts: Annotated[int, typer.Option(help="Restarts at most.")] = 1,
    seed: Annotated[int, typer.Option(help="The seed handed to the script.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the records and run.json.")] = Path("gradscope-run"),
    as_json: Json = False,
) -> None:
    """Supervise a training command: stop it when it fails to learn, and restart it with a delay.

    The command may hold {strength}, {weight_decay}, {seed} and {out}. Exits with 3 if the failure could not be
    remedied.
    """
    from gradscope.child import Command
    from gradscope.control.policy import DelayedRestart
    from gradscope.control.supervisor import supervise
    from gradscope.regularizers.schedules import parse_schedule

    if schedule is not None:
        parse_schedule(schedule)
    result = supervise(
        Command.parse(command, penalty),
        DelayedRestart(schedule, restart, max_restarts),
        out,
        strength=strength,
        seed=seed,
        say=say,
    )
    if as_json:
        print_json(result.as_dict())
    else:
        for number, attempt in enumerate(result.attempts, 1):
            print(f"attempt {number}: {attempt.diagnosis.sentence} ({attempt.steps} steps, {attempt.path})")
        print(("learned" if result.learned else "not remedied") + f": {result.reason}")
    if not result.learned:
        raise typer.Exit(3)
