"""What goes to standard output and what to standard error."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import textwrap
from typing import Annotated, Any

import typer

from gradscope.card import LONG, plain

#: What a terminal or an eye would obey; JSON has another way to write it.
_OBEYED = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def print_json(value: Any) -> None:
    """One JSON object; numbers that JSON does not know become null."""
    text = json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False)
    print(_OBEYED.sub(lambda found: json.dumps(found[0])[1:-1], text))


def tell(line: str = "") -> None:
    """A line of results, which may begin with an empty one; words of a record in it are inert."""
    print("\n" * line.startswith("\n") + plain(line.removeprefix("\n"), LONG))


def say(line: str) -> None:
    """A message on standard error, broken between words where a terminal is narrower."""
    print(_fitted(plain(line, LONG)), file=sys.stderr, flush=True)


def progress(line: str) -> None:
    """What concerns only somebody who watches: nothing where standard error is no terminal."""
    if sys.stderr.isatty():
        say(line)


def _fitted(line: str) -> str:
    """As it is in a file or pipe, where one message is one line."""
    if not sys.stderr.isatty():
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
    """A number for a line of text."""
    return "–" if value is None else f"{value:.{digits}g}"
