"""Figures of merit of the third edition, seed by seed and together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from analyses.common.results import Row
from analyses.common.statistics import wilson
from gradscope.diagnosis.cause import PENALTY

Rows = Sequence[Row]
#: How many of how many.
Count = tuple[int, int]


def count(rows: Rows, of: Callable[[Row], bool]) -> Count:
    """Count the rows of which something is so."""
    return sum(map(of, rows)), len(rows)


def failed(row: Row) -> bool:
    """Whether it fails by the label."""
    return str(row["label"]) == "True"


def fails(rows: Rows) -> list[Row]:
    """Those that fail by the label."""
    return [row for row in rows if failed(row)]


def learns(rows: Rows) -> list[Row]:
    """Those that learn by the label."""
    return [row for row in rows if not failed(row)]


def crushed(rows: Rows) -> list[Row]:
    """Failures by the penalty."""
    return [row for row in fails(rows) if PENALTY in row["right"].split("|")]


def innocent(rows: Rows) -> list[Row]:
    """Failures of which the penalty is no cause."""
    return [row for row in fails(rows) if PENALTY not in row["right"].split("|")]


def called(row: Row) -> bool:
    """Whether a failure was called before the end, taken back or not."""
    return bool(row["called"] != "")


def right(row: Row) -> bool:
    """Whether the cause is a right one; none named is wrong."""
    return row["cause"] in row["right"].split("|")


def blamed(row: Row) -> bool:
    """Whether the penalty is said to be the cause."""
    return bool(row["cause"] == PENALTY)


def stopped(row: Row) -> bool:
    """Whether thermoclaw speaks."""
    return row["thermoclaw"] not in ("", "None")


def carried(rows: Rows) -> list[Row]:
    """Failures whose remedy was carried out."""
    return [row for row in fails(rows) if row["works"] != ""]


def generators(rows: Rows) -> list[Row]:
    """Records of GANs' generators."""
    return [row for row in rows if row["kind"].startswith("GAN") and row["kind"].endswith(", G")]


def followed(row: Row) -> bool:
    """Whether the remedy works, or what is said of the run that it did not make learn."""
    return "True" in (row["works"], row["then"])


def named(row: Row) -> bool:
    """Whether a right cause is named, be it beside an "undecided"."""
    return right(row) or any(name in row["remedy"].partition(" first")[0] for name in row["right"].split("|"))


def constant(rows: Rows) -> list[Row]:
    """Records of a loss that a constant tells: all but those of GANs."""
    return [row for row in rows if not row["kind"].startswith("GAN")]


LINES: dict[str, Callable[[Rows], Count]] = {
    "fail by the label, of those meant to": lambda rows: count([r for r in constant(rows) if r["right"]], failed),
    "false alarms, taken back or not": lambda rows: count(learns(rows), called),
    "failures at the end, of those that learn": lambda rows: count(learns(rows), lambda r: r["failed"] == "True"),
    "failures told as such at the end": lambda rows: count(fails(constant(rows)), lambda r: r["failed"] == "True"),
    "failures told to be healthy": lambda rows: count(fails(rows), lambda r: r["verdict"] == "healthy"),
    "failures called before their end": lambda rows: count(fails(constant(rows)), called),
    "**right cause**": lambda rows: count(fails(constant(rows)), right),
    "the penalty's failures told as such": lambda rows: count(crushed(constant(rows)), blamed),
    "the penalty's failures called before their end": lambda rows: count(crushed(constant(rows)), called),
    "**the penalty blamed where it is innocent**": lambda rows: count(innocent(rows), blamed),
    "generators told to be healthy": lambda rows: count(generators(rows), lambda r: r["verdict"] == "healthy"),
    "generators that fail told as such, or a right cause named": lambda rows: count(fails(generators(rows)), named),
    "a remedy that a machine can carry out, of failures": lambda rows: (len(carried(rows)), len(fails(rows))),
    "**the remedy works**": lambda rows: count(carried(rows), lambda r: r["works"] == "True"),
    "it works as its first words say": lambda rows: count(
        carried(rows), lambda r: r["works"] == "True" and "|" not in r["done"]
    ),
    "it works, or what is said of the run that it leads to": lambda rows: count(carried(rows), followed),
    "thermoclaw: false alarms": lambda rows: count(learns(rows), stopped),
    "thermoclaw: the penalty's failures": lambda rows: count(crushed(rows), stopped),
}  # fmt: skip


def told(count: Count) -> str:
    """As a table shows it."""
    return f"{count[0]} of {count[1]}"


def between(count: Count) -> str:
    """With its interval."""
    low, high = wilson(*count)
    return f"{told(count)} ({100 * low:.0f} to {100 * high:.0f} %)"


def figures(rows: Rows) -> Iterator[str]:
    """Lines of a table: a column for each seed, and one for all with Wilson's interval of 95 %."""
    seeds = {seed: [row for row in rows if row["run"].endswith(f"/{seed}")] for seed in seeds_of(rows)}
    yield "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | all |"
    yield "|---" * (len(seeds) + 2) + "|"
    for name, line in LINES.items():
        yield f"| {name} | " + " | ".join(told(line(part)) for part in seeds.values()) + f" | {between(line(rows))} |"
    for name, of in (("e-folding times", "late"), ("share of the horizon, %", "share")):
        parts = [delays(part, of) for part in (*seeds.values(), rows)]
        yield f"| delay of the penalty's catches, {name}: median (largest) | " + " | ".join(parts) + " |"


def seeds_of(rows: Rows) -> list[str]:
    """In their order."""
    return list(dict.fromkeys(row["run"].rpartition("/")[2] for row in rows))


def delays(rows: Rows, of: str) -> str:
    """Of the penalty's failures that were called."""
    values = [float(row[of]) for row in crushed(constant(rows)) if called(row)]
    return f"{np.median(values):.2g} ({max(values):.2g})" if values else "none"


def misses(rows: Rows) -> Iterator[str]:
    """Lines that name each miss, and each remedy that does not work."""
    for row in rows:
        if failed(row):
            if not right(row):
                yield f"{row['run']}: {row['verdict']}, {row['cause'] or 'no cause'}; right: {row['right'] or 'none'}"
            if row["works"] == "False":
                then = f"; then {row['more'].replace('|', ', ')}: {row['then']}" if row["more"] else ""
                yield f"{row['run']}: remedy tried in vain: {row['done'].replace('|', ', ')}{then}"
        elif row["failed"] == "True" or called(row):
            yield f"{row['run']}: {row['verdict']}, {row['cause'] or 'no cause'}; it learns"
