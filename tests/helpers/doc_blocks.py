"""The code blocks of the documentation, as they are run by `test_docs`.

A fenced block of ``python`` or ``sh`` is run; one with a ``title`` is written to a file of that name first. Other
languages (``text``, ``json``) are output and stay as they are. HTML comments, which readers do not see, may precede it:

    <!-- python            code that prepares what the page takes for granted
    <!-- python slow       the same, for slow blocks
    <!-- slow: why -->     the next block is run by `make test-slow` only
    <!-- not run: why -->  the next block cannot be run in a test
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope_cli.main import run as gradscope_command

from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"^<!-- python(?P<later> slow)?\n(?P<hidden>.*?)^-->$"
    r"|(?:^<!-- (?P<why>slow|not run): [^\n]+ -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """``why``: ``slow``, ``not run`` or nothing. ``line``: of its first line of code, counted from 1."""

    language: str
    code: str
    title: str | None
    why: str | None
    line: int


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page that are code, the hidden ones too."""
    for match in _BLOCK.finditer(text):
        hidden = match["hidden"] is not None
        code = match["hidden"] if hidden else match["code"]
        line = text.count("\n", 0, match.start("hidden" if hidden else "code")) + 1
        language = "python" if hidden else match["language"]
        if language in ("python", "sh"):
            yield Block(language, code, match["title"], "slow" if match["later"] else match["why"], line)


class Session:
    """One page, in one process and one folder (the current one)."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "documentation", "ROOT": ROOT, "blocks": blocks}

    def run(self, block: Block) -> None:
        """Run a block; what it raises names the page and the line."""
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(self.page), "exec")
            if block.title is not None:
                Path(block.title).write_text(block.code)
            else:
                exec(code, self.names)
            return
        for command in commands(block.code):
            self._command(command, f"{self.page.name}:{block.line}: {command}")

    def _command(self, command: str, where: str) -> None:
        text, _, comment = command.partition(" #")
        words = [found for word in shlex.split(text) for found in _glob(word)]
        if words[0] == "gradscope":
            code = gradscope_command(words[1:])
            assert code == (3 if comment.strip().startswith("exit code 3") else 0), f"{where}: exit code {code}"
        elif words[0] == "python":
            before, sys.argv = sys.argv, words[1:]
            try:
                runpy.run_path(words[1], run_name="__main__")
            finally:
                sys.argv = before
        elif words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), where
        else:
            raise AssertionError(f"{where}: no test knows how to run {words[0]!r}")


def commands(code: str) -> list[str]:
    """The lines of a block of ``sh``, continued ones joined, comments left out."""
    joined = code.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def _glob(word: str) -> list[str]:
    if "*" not in word:
        return [word]
    return sorted(str(path) for path in Path().glob(word)) or [word]
