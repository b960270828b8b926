"""Write the page: one HTML file with everything in it. Nothing is fetched, and nothing else may run.

Text from a record reaches the page through a template that escapes it, or as JSON that the script puts into text nodes
and plots. The page's own policy (CSP) lets only our scripts run, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gradscope.card import LONG, plain
from gradscope.quantities import BY_LAYER, BY_MODULE, COMPARED
from gradscope.report.page import plots as charts
from gradscope.report.page.colours import RUNS, THEMES, layer_palette
from gradscope.report.page.encode import payload
from gradscope.report.page.page_values import Page
from gradscope.report.page.plots import embedded, figures
from gradscope.report.page.run_page import FRONT, LINES, page_of
from gradscope.types import InputError

#: The quantities of the map of layers, and what the script draws of each kind; shares are not divided by their start.
MAPPED = tuple(q for q in BY_LAYER.values() if q.stored)
DRAWN = {
    "lines": LINES,
    "front": FRONT,
    "metrics": charts.METRICS,
    "layer": list(BY_LAYER),
    "module": list(BY_MODULE),
    "run": [q.word for q in COMPARED],
    "shares": [q.word for q in MAPPED if not q.log],
}
#: Blocks of the template that a live page replaces.
LIVE_BLOCKS = ("verdicts", "comparison", "events", "tables", "capture")
#: The script of the page, in one piece.
SCRIPTS = ("numbers.js", "layers.js", "page.js")


def report(paths: Sequence[Path], out: Path) -> Page:
    """Write the page of these records to ``out``.

    Args:
        paths: the records.
        out: an HTML file.

    Returns:
        What the page shows.

    Raises:
        InputError: ``out`` is no name of an HTML file, its folder is not there, or a record cannot be read.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {out}: expected a name that ends in .html")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: there is no folder {out.parent}; make it first")
    page = page_of(paths)
    try:
        out.write_text(document(page), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from None
    return page


def document(page: Page, live: bool = False) -> str:
    """Render the HTML of a page. ``live``: it asks its server for news (`news`)."""
    plots = embedded(figures(len(page.runs) > 1))
    script, library = _script(), _library()
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in (script, library))
    asks = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {asks}; base-uri 'none'; form-action 'none'"
    )
    themes = {name: {**THEMES[name], "runs": RUNS[name], "layers": layer_palette(name)} for name in THEMES}
    text: str = _template().render(
        _context(page),
        live=live,
        policy=policy,
        roots=plots["roots"],
        plots=_json({**plots, "drawn": DRAWN}),
        data=_json(payload(page)),
        themes=_json(themes),
        colours=THEMES,
        style=Markup(_asset("page.css")),
        script=Markup(script),
        library=Markup(library),
    )
    return text


def news(page: Page) -> dict[str, Any]:
    """Return what has to change on a live page: its numbers, and the blocks of its text."""
    template = _template()
    blocks = {name: "".join(template.blocks[name](template.new_context(_context(page)))) for name in LIVE_BLOCKS}
    return {"data": payload(page), "blocks": blocks}


def _context(page: Page) -> dict[str, Any]:
    many = max(len(run.parameters) for run in page.runs) > LINES
    return {"page": page, "charts": charts, "mapped": MAPPED, "many": many}


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    return environment.from_string(_asset("page.html"))


def _shown(value: Any) -> Any:
    """Make words of a record inert before they are escaped; what the page itself brings stays."""
    return plain(value, LONG) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _asset(name: str) -> str:
    return (files("gradscope.report.page") / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Join our own scripts in a scope of their own."""
    return "\n".join(['"use strict";\n(() => {', *map(_asset, SCRIPTS), "begin();\n})();"])


@cache
def _library() -> str:
    """Return BokehJS without widgets, tables and WebGL."""
    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json(value: Any) -> Markup:
    """Write JSON that may stand inside a script element: no character in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def number(value: float | int | None) -> str:
    """Write a number for a table."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}"
