"""gradscope run: supervise a training command, restart it with a delay if it fails to learn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gradscope_cli.output import Json, print_json, say, tell

#: The exit code of a run that learns without its delayed penalty ever having come on.
NEVER_PENALISED = 4

if TYPE_CHECKING:
    from gradscope.restart.attempt import Attempt


def run(
    command: Annotated[list[str], typer.Argument(help="The training command, after --.", metavar="-- COMMAND…")],
    strength: Annotated[
        float | None, typer.Option(help="Regularization strength λ; without it the script's own.")
    ] = None,
    penalty: Annotated[str, typer.Option(help="The penalty the strength belongs to: l2, l1, l1l2, linf, l3 …")] = "l2",
    schedule: Annotated[str | None, typer.Option(help="Schedule of the first attempt, such as delayed:5.")] = None,
    restart: Annotated[str, typer.Option(help="delayed (auto), delayed:5, delayed:2000steps, or none.")] = "delayed",
    restart_from: Annotated[
        str, typer.Option(help="start, or checkpoint: the last healthy one of a script that gives record a checkpoint.")
    ] = "start",
    max_restarts: Annotated[int, typer.Option(help="Restarts at most.")] = 1,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which the training is ended.")] = None,
    seed: Annotated[int, typer.Option(help="The seed handed to the script.")] = 0,
    beside: Annotated[
        Path | None, typer.Option(help="A record of the same training without a penalty: what does the penalty cost?")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for records, output and run.json.")] = Path("gradscope-run"),
    as_json: Json = False,
) -> None:
    """Supervise a training: stop it if it fails, restart it delayed.

    The command may hold {strength}, {weight_decay}, {seed} and {out}. Its output is shown as it comes, signals are
    passed on to it. Killed at any moment, the same command goes on. Exits with 3 if the failure could not be remedied,
    with 4 if the run learns and its delayed penalty never came on.
    """
    from gradscope.processes.command import Command
    from gradscope.regularizers.schedules import parse_schedule
    from gradscope.restart.policy import policy_for
    from gradscope.restart.supervisor import supervise

    if schedule is not None:
        parse_schedule(schedule)
    if beside is not None:
        from gradscope.store.record_source import check

        check(beside)
    result = supervise(
        Command.parse(command, penalty),
        policy_for(schedule, restart, max_restarts, restart_from),
        out,
        strength=strength,
        seed=seed,
        say=say,
        time_limit=time_limit,
    )
    told = [] if beside is None else _costs(beside, result.attempts[-1])
    if as_json:
        print_json({**result.as_dict(), **({} if beside is None else {"costs": told})})
    else:
        for number, attempt in enumerate(result.attempts, 1):
            tell(f"attempt {number}: {_line(attempt)}")
        tell(f"{'not remedied' if result.status == 'failed' else result.status}: {result.reason}")
        for line in told:
            tell(line)
    if result.status == "failed":
        raise typer.Exit(3)
    if result.status == "never penalised":
        raise typer.Exit(NEVER_PENALISED)


def _costs(beside: Path, last: Attempt) -> list[str]:
    """Compare the metrics of the last attempt with those of a record without a penalty, in sentences."""
    from gradscope.diagnosis.cost import costs
    from gradscope.reading import diagnose, finished

    bare = finished(beside, diagnose(beside).failed)
    return costs([bare, finished(last.path, last.diagnosis.failed)])


def _line(attempt: Attempt) -> str:
    since = f", from step {attempt.first_step}" if attempt.first_step else ""
    return (
        f"{attempt.diagnosis.sentence} ({attempt.schedule or 'constant'}{since}; {attempt.steps} steps, {attempt.path})"
        + (f"; {attempt.level}" if attempt.level else "")
    )
