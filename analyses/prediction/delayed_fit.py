"""Makes the reader of delayed levels that gradscope ships, from delayed.jsonl.

It is taught the branches of both delays, and its errors are those at the delay that ``delayed:auto`` waits for: that is
the one that ``gradscope suggest --delayed`` asks about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyses.common.results import Results, Row
from analyses.prediction import delayed
from analyses.prediction.data import Case, Seen
from analyses.prediction.fit import Tried, fitted, tried, written
from gradscope.prediction import level_reader as shipped

RESULTS = Path(__file__).parent / "results"
PLACE = Path(shipped.__file__).parent / shipped.DELAYED


def branches(row: Row, rows: int) -> tuple[Seen, ...]:
    """The branches of a configuration after so many rows, as probes."""
    return tuple(
        Seen(b["place"], row["level"] * 10 ** b["place"], rows, np.array(b[f"features-{rows}"]))
        for b in row["branches"]
    )


def as_case(case: Case, row: Row, rows: int) -> Case:
    """A configuration with its delayed level and its branches in the place of those from the start."""
    return replace(case, level=row["level"], low=row["low"], high=row["high"], probes=branches(row, rows), late=(),
                   escape=0.0, spent=0)  # fmt: skip


def of_delay(when: str, folder: Path = RESULTS, rows: int = max(delayed.ROWS)) -> list[Case]:
    """The configurations with a level at this delay."""
    found = {row["key"]: row for row in Results(folder / delayed.FILE).rows() if row["when"] == when}
    known = {case.configuration.key: case for case in delayed.chosen()}
    return [as_case(known[key], row, rows) for key, row in found.items() if row["determined"]]


def held_out(asked: Sequence[Case], taught: Sequence[Case]) -> list[Tried]:
    """Each of those asked about, by a reader taught nothing of its family, from that reader's own first guess."""
    found = []
    for family in dict.fromkeys(case.configuration.family for case in asked):
        reader = fitted([case for case in taught if case.configuration.family != family])
        found += [tried(case, reader) for case in asked if case.configuration.family == family]
    return found


def fit_shipped() -> None:
    """Fit, measure, write."""
    by = {when: of_delay(when) for when in delayed.WHENS}
    taught = [case for known in by.values() for case in known]
    written(PLACE, {"direct": (fitted(taught), taught, held_out(by["auto"], taught))})
