"""Tables that grow as results come, and are gone on with by the next call."""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Table:
    """A CSV file with the machine and the date in its first line. Rows are known by their ``key`` columns."""

    def __init__(self, name: str, columns: tuple[str, ...], key: tuple[str, ...]) -> None:
        self.path = HERE / name
        self.columns, self.key = columns, key
        if not self.path.exists():
            cpu = next((line.split(":")[1].strip() for line in _cpu() if "model name" in line), platform.machine())
            self.path.write_text(f"# {time.strftime('%Y-%m-%d')}, 2 cores of {cpu}\n{','.join(columns)}\n")
        self.rows = rows(name)
        self._known = {self._of(row) for row in self.rows}

    def __contains__(self, row: Mapping[str, Any]) -> bool:
        return self._of(row) in self._known

    def add(self, row: Mapping[str, Any]) -> None:
        """One result, on disk at once."""
        shown = {name: f"{row[name]:.5g}" if isinstance(row[name], float) else str(row[name]) for name in self.columns}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(shown)
        self.rows.append(shown)
        self._known.add(self._of(shown))

    def _of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(f"{row[k]:.5g}" if isinstance(row[k], float) else str(row[k]) for k in self.key)


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a recorded table."""
    path = HERE / name
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _cpu() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []
