"""What goes to standard output and what to standard error."""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def print_json(value: Any) -> None:
    """One JSON object; numbers that JSON does not know become null."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False))


def say(line: str) -> None:
    """Progress and messages."""
    print(line, file=sys.stderr, flush=True)


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
