"""Tables as Markdown has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MISSING = "–"


def markdown(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table; None is shown as missing."""
    shown = [[MISSING if value is None else str(value) for value in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(columns), ["---"] * len(columns), *shown])
