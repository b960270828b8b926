"""The table of docs/wild.md, from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLUMNS = ("codebase", "what it is", "lines added", "identical", "numbers right", "verdict", "time of a step")
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"


def write_table(results: dict[str, Any], path: Path) -> None:
    """Replace what stands between the two marks of the page."""
    begin, end = "<!-- table -->\n", "<!-- end of the table -->"
    text = path.read_text()
    before, rest = text.split(begin)
    table = HEAD + "".join(row(found) for found in results["cases"])
    path.write_text(before + begin + table + "\n" + _when(results) + end + rest.split(end)[1])


def _when(results: dict[str, Any]) -> str:
    """How many, where and when."""
    cases = results["cases"]
    several = {name: ", ".join(sorted({str(one.get(name, "?")) for one in cases})) for name in ("date", "revision")}
    return (
        f"{len(cases)} scripts of {len({one['repository'] for one in cases})} repositories; {several['date']}; "
        f"{results['machine']}; gradscope at {several['revision']}.\n\n"
    )


def row(found: dict[str, Any]) -> str:
    """One codebase."""
    crashed = next((text for text in (found["errors"]["recorded"], found["errors"]["checked"]) if text), None)
    twins = [one["twin"] for one in found["recordings"] if "twin" in one]
    wrong = [text for twin in twins for text in twin["wrong"]]
    worst = max((value for twin in twins for value in twin["worst"].values()), default=0.0)
    count = sum(twin["numbers"] for twin in twins)
    right = f"no: {'; '.join(wrong)}" if wrong else f"{count:,}, within {worst:.0e}" if count else "none recorded"
    verdicts = ", ".join(one["verdict"] for one in found["recordings"])
    ratio = found["ratio"]["processor"]
    cells = [
        f"{found['name']}", found["shape"], str(found["lines"]), "yes" if found["identical"] else "**no**",
        crashed or right, verdicts, "–" if ratio is None else f"{ratio:.2f} of {found['step_seconds'] * 1e3:.0f} ms",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"
