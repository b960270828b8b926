"""What a study says in its README."""

from __future__ import annotations

import re

from analyses.common.study import Study


def section(study: Study, title: str) -> str:
    """A section of the study's README."""
    text = (study.results.parent / "README.md").read_text(encoding="utf-8")
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The cells of the rows of a table of Markdown, without its head."""
    return [line.split("|")[1:-1] for line in text.splitlines() if "|" in line][2:]


def told_in_table(study: Study, title: str, file: str) -> int:
    """How many figures with an interval, .07 (.06-.08), a section tells; each of them stands in this table."""
    made = (study.results / file).read_text(encoding="utf-8")
    told = re.findall(r"(\.\d+) \((\.\d+)-(\.\d+)\)", section(study, title))
    for middle, low, high in told:
        assert f"0{middle} (0{low}-0{high})" in made, (middle, low, high)
    return len(told)
