"""Show words of a record: made inert, and as a small card of HTML for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape as escaped
from typing import Any

#: Strokes that are told apart on light and on dark (at least 3 : 1 on white and on #111).
STROKES = {"failed": "#d63b3b", "healthy": "#1f9156", "undecided": "#a37c00"}


#: A text in a line of its own, and one among others.
LONG, SHORT = 4000, 100


def escape(text: str) -> str:
    """Escape text for HTML, cut to `LONG` characters."""
    return escaped(plain(text, LONG))


def plain(text: str, most: int | None = None) -> str:
    """Remove what a terminal, a page or an eye would obey: control characters, marks of direction.

    Args:
        text: words of a record.
        most: characters that are shown; an ellipsis stands for what is left out in the middle.

    Returns:
        Printable text.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() and ord(c) > 0x9F else "\ufffd" for c in text)
    if most is not None and len(text) > most:
        half = most // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text


def inert(value: Any) -> Any:
    """Make all texts in dictionaries and lists plain."""
    if isinstance(value, str):
        return plain(value, LONG)
    if isinstance(value, dict):
        return {inert(name): inert(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [inert(inner) for inner in value]
    return value


def card(title: str, tone: str, lines: Sequence[str] = (), facts: Mapping[str, object] | None = None) -> str:
    """Build the HTML of one card. ``tone``: failed, healthy or undecided; ``lines``: a list; ``facts``: a table."""
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
