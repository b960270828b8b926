"""gradscope watch: a live view of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gradscope_cli.output import Json, print_json, say

from gradscope.types import InputError


def watch(
    run: Annotated[Path, typer.Argument(help="The record of a running or finished training; it may not be there yet.")],
    web: Annotated[
        bool, typer.Option("--web", help="Serve the report page, live, to browsers on this machine.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --web: the port; 0 takes a free one.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="One look at what is there now, and no waiting.")] = False,
    as_json: Json = False,
) -> None:
    """Watch a run as it goes on: verdict, curves, the worst layers.

    Also step rate, time to underflow, events. The file is only read, and the training does not notice. Ends with the
    run. With --json: one object, at the end or --once.
    """
    if web and (once or as_json):
        raise InputError("--web serves a page until it is interrupted; --once and --json do not go with it")
    if web:
        _serve(run, port)
    elif once or as_json:
        _one(run, once, as_json)
    else:
        from rich.console import Console

        from gradscope.report.live.terminal import watch as show

        if show(run, Console(highlight=False)) is None:
            say(f"{run} ended without a row")


def _one(run: Path, once: bool, as_json: bool) -> None:
    from gradscope.report.live.follower import Follower, run_now
    from gradscope.report.live.terminal import drawn, looks

    if once:
        found = run_now(run)
    else:
        with Follower(run) as follower:
            *_, last = looks(follower)
        if last is None:
            raise InputError(f"{run} ended without a row, so there is nothing to tell")
        found = last
    if as_json:
        print_json(found.as_dict())
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(drawn(found, console.width))


def _serve(run: Path, port: int) -> None:
    from gradscope.report.live.web import served

    with served(run, port) as (address, view):
        say(f"{run} at {address} (Ctrl-C ends)")
        while True:
            view.follower.wait(1.0)
            if view.follower.error is not None:
                raise view.follower.error
            if view.follower.over:
                _rest()


def _rest() -> None:
    """Keep the page of a run that is over until it is interrupted."""
    from time import sleep

    while True:
        sleep(3600)
