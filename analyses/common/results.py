"""The file of a study's results: a row a line, whole or not at all, never twice."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.common.machine import head
from gradscope import checks
from gradscope.types import InputError

#: What identifies a training (strength, seed, ...), and what was measured in it: plain values by name.
Cell = dict[str, Any]
Row = dict[str, Any]


class Results:
    """JSON lines, or CSV under a line that says date, machine, torch and command; by the ending of ``path``.

    A row of JSON holds machine, torch and date itself; of CSV where the file has such columns. All values of CSV are
    read as text. A last line that was cut off while it was written is left out, and cut off before the next one.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.path, self.device = path, device
        self._csv = path.suffix == ".csv"

    def rows(self) -> list[Row]:
        """What there is; nothing where there is no file. Raises `InputError` for a line that cannot be read."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        if self._csv:
            return list(csv.DictReader(line for line in lines if not line.startswith("#")))
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise InputError(f"{self.path} has a line that is no JSON; expected one training a line") from None

    def recorded(self) -> list[Row]:
        """What there is, for tables and figures of it. Raises `InputError` where there is nothing."""
        if not (rows := self.rows()):
            raise InputError(f"{self.path} holds no training; the study's run command makes it")
        return rows

    def of(self, cells: Sequence[Cell]) -> list[Row]:
        """The rows of these cells, in their order, several a cell where it has made several."""
        names = sorted({name for cell in cells for name in cell})
        found: dict[str, list[Row]] = {}
        for row in self.rows():
            found.setdefault(_key(row, names), []).append(row)
        return [row for cell in cells for row in found.get(_key(cell, names), [])]

    def by(self, name: str) -> dict[str, Row]:
        """What there is, by one of its values as text."""
        return {str(row[name]): row for row in self.rows()}

    def left(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those of the cells that have no row."""
        names = sorted({name for cell in cells for name in cell})
        there = {_key(row, names) for row in self.rows()}
        return [cell for cell in cells if _key(cell, names) not in there]

    def append(self, *rows: Row) -> None:
        """Add rows in one writing; a torn line of a killed run before them is cut off first."""
        with self.path.open("a+b") as file:
            file.seek(0)
            before = file.read()
            whole = before.rfind(b"\n") + 1
            file.truncate(whole)
            file.write(self._lines(rows, before[:whole].decode()).encode())

    def write(self, rows: Sequence[Row]) -> None:
        """Put these rows in the place of all that were there, whole at once."""
        checks.writable_folder(self.path.parent)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(self._lines(rows, ""), encoding="utf-8")
        part.replace(self.path)

    def _lines(self, rows: Iterable[Row], before: str) -> str:
        if not self._csv:
            return "".join(json.dumps(row) + "\n" for row in rows)
        rows, text = list(rows), io.StringIO()
        header = next((line for line in before.splitlines() if not line.startswith("#")), None)
        if header is None:
            columns = [name for name in rows[0] if name not in ("core_seconds", "machine", "torch", "date")]
            text.write("" if before else f"# {head(self.device)}\n")
        else:
            columns = next(csv.reader([header]))
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        if header is None:
            table.writeheader()
        table.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
        return text.getvalue()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One command at a time adds to a file: two would train the same cells, and cut each other's lines."""
        checks.writable_folder(self.path.parent)
        with self.path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another command is adding to {self.path}; wait for it, or give another folder with --out"
                ) from None
            yield


def _key(values: Row, names: Iterable[str]) -> str:
    """What a row and its cell have in common, whether they come from CSV or JSON or were never written."""
    return json.dumps([_plain(values.get(name)) for name in names])


def _plain(value: Any) -> str:
    """Numbers are the same however they are written; None is an empty field."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value)
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        return str(value)
