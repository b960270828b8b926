"""Writes the table of docs/file-format.md anew: python -m tests.helpers.file_format."""

from __future__ import annotations

from gradscope.store import schema
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "file-format.md"
BEGIN, END = "<!-- table: python -m tests.helpers.file_format -->\n", "\n<!-- end of table -->"

if __name__ == "__main__":
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + schema.table() + END + after)
