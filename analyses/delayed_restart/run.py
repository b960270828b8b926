"""Restarts against brute force: python -m analyses.delayed_restart.run (about an hour of one core; carries on).

Appends to brute_force.csv (every fixed delay, to the horizon) and restarts.csv (the same runs under
`gradscope.Restarts`), and repeats nothing that stands there.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analyses.delayed_restart.brute_force import Member, train
from analyses.delayed_restart.training import SETTINGS, restarted

HERE = Path(__file__).parent
SEEDS = (0, 1, 2, 3, 4)
DELAYS = (0, 2, 5, 10, 20)  # epochs; 0: from the start

#: From below the tolerance level to above the delayed one, by a first look at both.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "mlp-8": (0.075, 0.09, 0.07, 0.05),
    "mlp-12": (0.06, 0.09, 0.05, 0.03),
    "mlp-16": (0.06, 0.09, 0.07, 0.03),
    "mlp-8-default-init": (0.01, 0.06, 0.02, 0.0005),
    "conv-8": (0.1, 0.4, 0.05, 0.02),
    "pairs-mlp-12": (0.016, 0.03, 0.1),
    "mlp-10-l1": (0.03, 0.06, 0.016, 0.12, 0.25),
}


def brute_force(rows: Table, settings: list[str]) -> None:
    """All seeds and delays of a setting at one strength, at once."""
    for name, strength in _in_turn(settings):
        if rows.holds(setting=name, strength=strength):
            continue
        members = [Member(strength, seed, delay) for seed in SEEDS for delay in DELAYS]
        started = time.process_time()
        found = train(SETTINGS[name], members)
        seconds = (time.process_time() - started) / len(members)
        for member, (learned, accuracy) in zip(members, found, strict=True):
            rows.add(
                setting=name, **dataclasses.asdict(member), learned=learned, accuracy=round(accuracy, 4),
                cpu_seconds=round(seconds, 2),
            )  # fmt: skip


def restarts(rows: Table, settings: list[str]) -> None:
    """One supervised run a setting, strength and seed."""
    for name, strength in _in_turn(settings):
        for seed in SEEDS:
            if rows.holds(setting=name, strength=strength, seed=seed):
                continue
            started = time.process_time()
            found = restarted(SETTINGS[name], strength, seed)
            first, last = found.attempts[0], found.attempts[-1]
            again = len(found.attempts) > 1
            rows.add(
                setting=name, strength=strength, seed=seed, learned=found.learned, accuracy=round(found.accuracy, 4),
                attempts=len(found.attempts), first_verdict=first.diagnosis.verdict, first_steps=first.steps,
                first_active=first.diagnosis.active_step, last_verdict=last.diagnosis.verdict,
                last_steps=last.steps if again else None, switched_on=last.switched_on if again else None,
                steps=found.steps, cpu_seconds=round(time.process_time() - started, 2), reason=found.reason,
            )  # fmt: skip


def _in_turn(settings: list[str]) -> Iterator[tuple[str, float]]:
    """One strength of every setting, then the next: whenever it is broken off, all settings have had their turn."""
    for turn in range(max(len(STRENGTHS[name]) for name in settings)):
        for name in settings:
            if turn < len(STRENGTHS[name]):
                yield name, STRENGTHS[name][turn]


class Table:
    """A CSV file that grows by rows; each carries the machine and the date."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, str]] = []
        if path.exists():
            with path.open() as file:
                self._rows = list(csv.DictReader(file))

    def holds(self, **key: Any) -> bool:
        """Whether a row with these values is there."""
        return any(all(row[name] == str(value) for name, value in key.items()) for row in self._rows)

    def add(self, **row: Any) -> None:
        """Append a row, to disk at once."""
        row |= {
            "date": datetime.datetime.now(datetime.UTC).date(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({name: "" if value is None else value for name, value in row.items()})
        self._rows.append({name: str(value) for name, value in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("brute-force", "restarts"))
    parser.add_argument("--settings", nargs="+", choices=STRENGTHS, default=list(STRENGTHS))
    given = parser.parse_args()
    if given.only != "restarts":
        brute_force(Table(HERE / "brute_force.csv"), given.settings)
    if given.only != "brute-force":
        restarts(Table(HERE / "restarts.csv"), given.settings)


if __name__ == "__main__":
    main()
