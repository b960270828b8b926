"""What a study says in its README."""

from __future__ import annotations

from analyses.common.study import Study


def section(study: Study, title: str) -> str:
    """A section of the study's README."""
    text = (study.results.parent / "README.md").read_text(encoding="utf-8")
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The cells of the rows of a table of Markdown, without its head."""
    return [line.split("|")[1:-1] for line in text.splitlines() if "|" in line][2:]
