"""Writes docs/rules.md anew: python -m tests.helpers.rules_page."""

from __future__ import annotations

from gradscope.diagnosis.rules.page import page
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "rules.md"
BEGIN, END = "<!-- rules: python -m tests.helpers.rules_page -->\n", "\n<!-- end of rules -->"


def whole() -> str:
    """The page with the part that follows from the catalogue as it is now."""
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + page() + END + after


if __name__ == "__main__":
    PAGE.write_text(whole())
