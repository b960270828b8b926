"""gradscope search: find the tolerance level of a training command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gradscope_cli.output import Json, print_json, say, shorter

if TYPE_CHECKING:
    from gradscope.diagnosis.tolerance import ToleranceEstimate
    from gradscope.search.trials import TrialResult


def search(
    command: Annotated[list[str], typer.Argument(help="The training command, after --.", metavar="-- COMMAND…")],
    low: Annotated[float, typer.Option(help="The weakest strength to consider.")],
    high: Annotated[float, typer.Option(help="The strongest strength to consider.")],
    penalty: Annotated[str, typer.Option(help="The penalty: l2, l1, l1l2, linf, l3 …")] = "l2",
    delayed: Annotated[bool, typer.Option("--delayed", help="Find the delayed tolerance too.")] = False,
    workers: Annotated[int, typer.Option(help="Trials at a time.")] = 1,
    executor: Annotated[str, typer.Option(help="Where trials run: local.")] = "local",
    precision: Annotated[float, typer.Option(help="Width of the interval to reach, in decades.")] = 0.1,
    max_trials: Annotated[int, typer.Option(help="Trials at most, for each level.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the placement of trials.")] = 0,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a trial counts as hung.")] = None,
    out: Annotated[Path, typer.Option(help="The search folder; an interrupted search carries on there.")] = Path(
        "gradscope-search"
    ),
    as_json: Json = False,
) -> None:
    """Find the strength beyond which learning fails, with a 95 % interval.

    Each trial is one run of the command with a seed of its own, ended as soon as its outcome is clear. The
    command may hold {strength}, {weight_decay}, {seed} and {out}; gradscope.record in it obeys the environment.
    """
    from gradscope.child import Command
    from gradscope.search.search import search_command
    from gradscope.types import InputError

    if executor != "local":
        raise InputError(f"executor is {executor!r}; this version runs trials on this machine: local")
    result = search_command(
        Command.parse(command, penalty), low, high, delayed=delayed, workers=workers, out=out,
        precision=precision, max_trials=max_trials, seed=seed, timeout=timeout, on_trial=_progress,
    )  # fmt: skip
    if as_json:
        print_json(result.as_dict())
        return
    for name, level in (("tolerance level", result.estimate), ("delayed tolerance level", result.delayed)):
        if level is not None and level.determined:
            print(f"{name} {shorter(level.tolerance)} (95 % interval {shorter(level.low)} … {shorter(level.high)})")
        elif level is not None:
            print(f"{name} not determined: {level.reason}")
    print(result.advice)


def _progress(level: str, trial: TrialResult, estimate: ToleranceEstimate) -> None:
    known = f"{shorter(estimate.low)} … {shorter(estimate.high)}" if estimate.determined else "not bracketed yet"
    say(f"{level} trial {trial.number}: {trial.strength:g} {trial.verdict} after {trial.steps} steps; level {known}")
