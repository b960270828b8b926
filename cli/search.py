"""gradscope search: find the tolerance level of a training command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from gradscope_cli.output import Json, on_terminal, print_json, say, shorter, showing, tell

if TYPE_CHECKING:
    from gradscope.tolerance.result import Progress, ToleranceResult


def search(
    command: Annotated[list[str], typer.Argument(help="The training command, after --.", metavar="-- COMMAND…")],
    low: Annotated[float, typer.Option(help="The weakest strength λ to consider; for l2, half of its weight_decay.")],
    high: Annotated[float, typer.Option(help="The strongest strength λ to consider.")],
    penalty: Annotated[str, typer.Option(help="The penalty: l2, l1, l1l2, linf, l3 …")] = "l2",
    delayed: Annotated[bool, typer.Option("--delayed", help="Find the delayed tolerance too.")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Trials at a time. Default: 1; on a cluster, as many as it has threads.")
    ] = None,
    executor: Annotated[
        str, typer.Option(help="Where trials run: local, dask://HOST:PORT, or submitit (Slurm).")
    ] = "local",
    precision: Annotated[float, typer.Option(help="Width of the interval to reach, in decades.")] = 0.1,
    max_trials: Annotated[int, typer.Option(help="Trials at most, for each level.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the placement of trials.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a trial counts as hung and is lost.")
    ] = None,
    predict: Annotated[
        bool | None,
        typer.Option(
            "--predict/--no-predict",
            help="Read the level from short probes first. Default: for scripts of Python, l2 or l1, over a decade.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The search folder; an interrupted search carries on there.")] = Path(
        "gradscope-search"
    ),
    as_json: Json = False,
) -> None:
    """Find the strength beyond which learning fails, by trials.

    It is told with a 95 % interval. Each trial is one run of the command with a seed of its own, ended as soon as
    its outcome is clear. The command may hold {strength}, {weight_decay}, {seed} and {out}; gradscope.record in it
    obeys the environment.
    """
    from gradscope.processes.command import Command
    from gradscope.quantities import Strength
    from gradscope.tolerance.search import search_command
    from gradscope.trials.executors import checked

    result = search_command(
        Command.parse(command, penalty), low, high, delayed=delayed, workers=workers, executor=checked(executor),
        out=out, precision=precision, max_trials=max_trials, seed=seed, timeout=timeout,
        predict=predict, on_trial=showing(_show, command, "trial"), on_prediction=_show_prediction,
    )  # fmt: skip
    figure = _draw(result, out / "tolerance.png")
    if as_json:
        print_json({**result.as_dict(), "figure": figure and str(figure)})
        return
    for name, level in (("tolerance level", result.estimate), ("delayed tolerance level", result.delayed)):
        if level is not None and level.determined:
            found = Strength(level.tolerance or 0.0, result.penalty)
            tell(f"{name} {found}, 95 % interval of λ {shorter(level.low)} … {shorter(level.high)}")
        elif level is not None:
            tell(f"{name} not determined: {level.reason}")
    tell(result.advice)
    if figure is not None:
        tell(f"trials, curve and interval: {figure}")


def _draw(result: ToleranceResult, path: Path) -> Path | None:
    """Draw trials, fitted curve and interval, of both levels if both were searched; None without a finished trial."""
    from gradscope.report.level import draw_levels, level_summary

    levels = (
        ("tolerance level", result.posterior, result.trials, result.estimate),
        ("delayed level", result.delayed_posterior, result.delayed_trials, result.delayed),
    )
    shown = [
        level_summary(name, posterior, [t.outcome for t in trials], estimate)
        for name, posterior, trials, estimate in levels
        if trials and posterior is not None and estimate is not None
    ]
    return draw_levels(shown, result.penalty, path) if shown else None


def _show_prediction(found: dict[str, Any]) -> None:
    """Print one line, before the first trials are over."""
    if found["tolerance"] is None:
        say(f"not predicted from probes: {found['reason']}")
        return
    around = f"{shorter(found['low'])} … {shorter(found['high'])}"
    say(f"probes predict {shorter(found['tolerance'])} ({around}) in {found['steps']} steps: trials begin there")


def _show(now: Progress) -> None:
    """Print one line a trial: its outcome, where the level may lie, what was spent, what is to come."""
    e = now.estimate
    if now.trial is None:
        happened = now.lost or ""
    else:
        happened = f"{now.trial.strength:.4g} {now.trial.verdict} after {now.trial.steps} steps"
        happened += ", audit" if now.trial.audit else ""
    known = f"{shorter(e.low)} … {shorter(e.high)} ({e.decades:.2f} decades)" if e.determined else "not bracketed yet"
    spent = f"{now.steps} steps" if now.epochs is None else f"{now.epochs} epochs"
    rest = f"about {now.rest} to come" if now.rest else "done"
    curve = f" |{_bar(now.density)}|" if on_terminal() else ":"
    say(f"{now.level} {now.trials:2d}{curve} {known}; {spent}, {rest}; {happened}")


def _bar(density: tuple[float, ...]) -> str:
    """Draw the posterior over the range asked for, as a row of blocks."""
    top = max(density) or 1.0
    return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * d / top) if d > 0.002 else 0] for d in density)
