"""A public training script, what is done to it so that it runs here, and the lines that record it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """A line of ours beside the first line of ``file`` in which the expression ``at`` is found, indented like it.

    ``file``: the script itself if not given. ``above``: before that line instead of after it. ``nth``: which of the
    lines found is meant.
    """

    at: str
    text: str
    file: str = ""
    above: bool = False
    nth: int = 0


@dataclass(frozen=True)
class Swap:
    """What has to be otherwise on a machine without a network or a card, recorded or not: a substitution."""

    old: str
    new: str
    file: str = ""


@dataclass(frozen=True)
class Case:
    """``repository``: owner/name, whose checkout is ``owner+name``. ``script``: run from ``folder`` inside it.

    ``lines``: those that record. ``prepare``: makes the data the script looks for in its folder. ``path``: folders of
    the checkout that Python imports from; ``libraries``: other checkouts, the same.
    """

    name: str
    repository: str
    script: str
    lines: tuple[Line, ...]
    arguments: str = ""
    folder: str = ""
    libraries: tuple[str, ...] = ()
    swaps: tuple[Swap, ...] = ()
    prepare: Callable[[Path], None] | None = None
    path: tuple[str, ...] = ()
    steps: int = 40
    turn: int = 2
    shape: str = ""


class Missing(Exception):
    """The script is not the one that the lines were written for."""


def edit(case: Case, root: Path, recorded: bool, preset: str = "standard") -> int:
    """Make the changes in a copy of the checkout; the number of lines added."""
    folder = root / case.folder
    for swap in case.swaps:
        path = folder / (swap.file or case.script)
        text, found = re.subn(swap.old, swap.new, path.read_text(), flags=re.MULTILINE)
        if not found:
            raise Missing(f"{case.name}: no {swap.old!r} in {path.name}")
        path.write_text(text)
    if not recorded:
        return 0
    files: dict[Path, list[tuple[int, str]]] = {}
    for line in case.lines:
        path = folder / (line.file or case.script)
        source = path.read_text().splitlines()
        found_at = [i for i, one in enumerate(source) if re.search(line.at, one)]
        if len(found_at) <= line.nth:
            raise Missing(f"{case.name}: no {line.at!r} in {path.name}")
        at = found_at[line.nth]
        indent = source[at][: len(source[at]) - len(source[at].lstrip())]
        text = line.text if preset == "standard" else re.sub(r"\.h5'\)", f".h5', preset='{preset}')", line.text)
        files.setdefault(path, []).append((at if line.above else at + 1, indent + text))
    for path, added in files.items():
        source = path.read_text().splitlines()
        for at, text in sorted(added, key=lambda one: one[0], reverse=True):
            source.insert(at, text)
        path.write_text("\n".join(source) + "\n")
    return len(case.lines)
