"""gradscope suggest: predict the tolerance level of a training command from a few short probes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gradscope_cli.output import Json, print_json, say, shorter, showing, tell

if TYPE_CHECKING:
    from gradscope.prediction.probing import ProbeResult
    from gradscope.prediction.suggest import Suggestion


def suggest(
    command: Annotated[list[str], typer.Argument(help="The training command, after --.", metavar="-- COMMAND…")],
    penalty: Annotated[str, typer.Option(help="The penalty: l2, or l1 by proximal steps.")] = "l2",
    delayed: Annotated[
        bool,
        typer.Option("--delayed", help="Predict the delayed level: of a penalty that comes on in the active phase."),
    ] = False,
    start: Annotated[
        float | None,
        typer.Option(help="The strength to probe first; without it a run without a penalty points to one."),
    ] = None,
    probes: Annotated[int, typer.Option(help="Probes under a penalty at most.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the first run; the others' follow.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the records of the probes.")] = Path("gradscope-suggest"),
    as_json: Json = False,
) -> None:
    """Predict how strong is too strong, in some hundred steps.

    A short run without a penalty, then a few probes of at most 40 steps, each ended by gradscope.record in the command
    and placed where those before it point to. Of a net that learns late they are longer, and cost as much as a few
    short runs. With --delayed each is a whole run to the active phase, and 80 steps after it. Without an answer it says
    why. The command may hold {strength}, {weight_decay}, {seed} and {out}; gradscope.record in it obeys the
    environment.
    """
    from gradscope.prediction.suggest import suggest_command
    from gradscope.processes.command import Command
    from gradscope.processes.script import why_cold
    from gradscope.quantities import Strength
    from gradscope.trials.local import LocalExecutor

    parsed = Command.parse(command, penalty)
    where = None if why_cold(command) else LocalExecutor(1, scripts=True)
    try:
        result = suggest_command(
            parsed, delayed=delayed, start=start, probes=probes, out=out, seed=seed,
            on_probe=showing(_show, command, "probe"), executor=where,
        )  # fmt: skip
    finally:
        if where is not None:
            where.shutdown(cancel_futures=True)
    if as_json:
        print_json({**result.as_dict(), "search": search_line(result, command)})
        return
    name = "delayed tolerance level" if delayed else "tolerance level"
    if not result.determined:
        tell(f"{name} not predicted: {result.reason}")
    else:
        level = Strength(result.tolerance or 0.0, result.penalty)
        tell(f"{name} about {level}, 95 % interval of λ {shorter(result.low)} … {shorter(result.high)}")
        tell(f"({result.reason})")
    whole = "" if result.share is None else f", {result.share:.0%} of a run of {result.horizon}"
    tell(f"{result.steps_run} steps{whole}")
    if (line := search_line(result, command)) is not None:
        tell(f"to determine it: {line}")


def search_line(result: Suggestion, command: list[str]) -> str | None:
    """Write the search that starts from a prediction; None where there is none."""
    if result.range is None:
        return None
    low, high = (shorter(end) for end in result.range)
    option = "" if result.penalty == "l2" else f" --penalty {result.penalty}"
    option += " --delayed" if result.delayed else ""
    return f"gradscope search --low {low} --high {high}{option} -- {shlex.join(command)}"


def _show(probe: ProbeResult) -> None:
    """Print one line a probe."""
    if probe.distance is None:
        say(f"without a penalty: {probe.steps} steps")
        return
    side = "above" if probe.distance > 0 else "below"
    from_there = f" from step {probe.delay} on" if probe.delay else ""
    reads = f"reads {abs(probe.distance):.2f} decades {side} the level"
    say(f"{probe.strength:.4g}{from_there}: {probe.steps} steps, {reads}")
