"""Writes the table of docs/file-format.md anew: python -m tests.file_format."""

from __future__ import annotations

from pathlib import Path

from gradscope.store import schema

PAGE = Path(__file__).parent.parent / "docs" / "file-format.md"
BEGIN, END = "<!-- table: python -m tests.file_format -->\n", "\n<!-- end of table -->"

if __name__ == "__main__":
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + schema.table() + END + after)
