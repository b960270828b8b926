"""Writes docs/rules.md anew: python -m tests.rules_page."""

from __future__ import annotations

from pathlib import Path

from gradscope.diagnosis.rules.page import page

PAGE = Path(__file__).parent.parent / "docs" / "rules.md"
BEGIN, END = "<!-- rules: python -m tests.rules_page -->\n", "\n<!-- end of rules -->"


def whole() -> str:
    """The page with the part that follows from the catalogue as it is now."""
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + page() + END + after


if __name__ == "__main__":
    PAGE.write_text(whole())
