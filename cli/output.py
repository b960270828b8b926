"""Print results to standard output and messages to standard error."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import typer

from gradscope.card import LONG, plain

#: What a terminal or an eye would obey; JSON has another way to write it.
_OBEYED = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

T = TypeVar("T")

_said = [0.0]  # when the latest message was

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def print_json(value: Any) -> None:
    """Print one JSON object; numbers that JSON does not know become null."""
    text = json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False)
    print(_OBEYED.sub(lambda found: json.dumps(found[0])[1:-1], text))


def tell(line: str = "") -> None:
    """Print a line of results, which may begin with an empty one; words of a record in it are inert."""
    print("\n" * line.startswith("\n") + plain(line.removeprefix("\n"), LONG))


def say(line: str) -> None:
    """Print a message to standard error, broken between words where a terminal is narrower."""
    print(_fitted(plain(line, LONG)), file=sys.stderr, flush=True)
    _said[0] = time.monotonic()


def showing(show: Callable[[T], None], command: Sequence[str], what: str) -> Callable[[T], None]:
    """Wrap ``show`` so that one line before its first call says why each run of the command imports torch by itself."""
    from gradscope.processes.script import why_cold

    lines = [f"each {what} imports torch anew: {why}"] if (why := why_cold(command)) is not None else []

    def shown(news: T) -> None:
        if lines:
            say(lines.pop())
        show(news)

    return shown


def on_terminal() -> bool:
    """Return whether somebody watches; else standard error is a log: of ``nohup``, Slurm, CI, a notebook."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def signs_of_life(seconds: float = 30.0) -> Iterator[None]:
    """Print a line to a log after every so many seconds of work in which nothing was said."""
    if on_terminal():
        yield
        return
    began, over = time.monotonic(), threading.Event()
    _said[0] = began

    def tell_of_it() -> None:
        while not over.wait(max(0.0, _said[0] + seconds - time.monotonic())):
            if (now := time.monotonic()) >= _said[0] + seconds:
                say(f"still working, {now - began:.0f} s so far")

    thread = threading.Thread(target=tell_of_it, name="gradscope signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _fitted(line: str) -> str:
    """Break a line for a terminal; in a file or pipe one message stays one line."""
    if not on_terminal():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def shorter(value: float | None, digits: int = 3) -> str:
    """Write a number for a line of text."""
    return "–" if value is None else f"{value:.{digits}g}"
