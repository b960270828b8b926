"""A small card of HTML for notebooks: a sentence, its evidence, a table. Text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

#: Strokes that are told apart on light and on dark (at least 3 : 1 on white and on #111).
STROKES = {"failed": "#d63b3b", "healthy": "#1f9156", "undecided": "#a37c00"}


def card(title: str, tone: str, lines: Sequence[str] = (), facts: Mapping[str, object] | None = None) -> str:
    """HTML of one card. ``tone``: failed, healthy or undecided; ``lines``: a list; ``facts``: a table."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in (facts or {}).items()
    )
    return (
        f'<div style="border-left:4px solid {STROKES[tone]};padding:.2em .8em;margin:.4em 0">'
        f"<strong>{escape(title)}</strong>"
        + (f'<ul style="margin:.3em 0">{items}</ul>' if items else "")
        + (f"<table>{rows}</table>" if rows else "")
        + "</div>"
    )
