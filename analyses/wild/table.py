"""The table of docs/wild.md, from the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.common.results import Results
from analyses.common.study import ANALYSES, Options

PAGE = ANALYSES.parent / "docs" / "wild.md"
COLUMNS = ("codebase", "what it is", "lines added", "identical", "numbers right", "verdict", "time of a step", "tried")
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"


def table(folder: Path) -> str:
    """All of the results, and how many they are, where and when."""
    cases = Results(folder / "cases.jsonl").recorded()
    several = {
        name: ", ".join(dict.fromkeys(sorted(str(one.get(name, "?")) for one in cases)))
        for name in ("date", "machine", "revision")
    }
    told = (
        f"{len(cases)} scripts of {len({one['repository'] for one in cases})} repositories; {several['date']}; "
        f"{several['machine']}; gradscope at {several['revision']}.\n"
    )
    return HEAD + "".join(row(found) for found in cases) + "\n" + told


def wrong(folder: Path) -> list[str]:
    """Whether the page has another table."""
    return [] if table(folder) in PAGE.read_text() else [f"{PAGE} has another table; run wild --only page puts this in"]


def write(asked: Options) -> None:
    """Put it between the two marks of the page."""
    begin, end = "<!-- table -->\n", "\n<!-- end of the table -->"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(before + begin + table(asked.out) + end + rest.split(end)[1])


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
        f"{found['date']}, {found['revision']}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"
