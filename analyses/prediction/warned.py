"""Would a warning at a run's first rows be right? (a core-minute)

It is given where the first rows of a run read as so many decades above the level. Each probe that probes.npz holds is
read by a reader that has not seen its family. Twice: with the decades that gradscope ships (`BEYOND`), and with decades
chosen without the family, too, on the others, each read by a reader that has seen neither. Then runs of nets that are
no configuration of the reader's, those of analyses/useful_strength, by their first rows alone.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Results, Row
from analyses.common.statistics import wilson
from analyses.common.study import Options
from analyses.prediction.data import Case
from analyses.prediction.fit import fitted
from analyses.prediction.held_out import Found
from analyses.useful_strength.runs import GRID
from analyses.useful_strength.study import STUDY
from analyses.useful_strength.tasks import TASKS, train
from gradscope.prediction.ask_tell import ROWS, rows_needed
from gradscope.prediction.features import features
from gradscope.prediction.from_record import BEYOND, unreadable
from gradscope.prediction.level_reader import Reader
from gradscope.prediction.rows import invariant_share, probe_of
from gradscope.processes.instructions import Instructions, Stopped, instructed
from gradscope.store.record import Record
from gradscope.tolerance.posterior import Posterior
from gradscope.trials.trial import Outcome

FRESH = "warned.jsonl"
#: Decades above the level that a probe has to read as: the candidates.
DECADES = tuple(round(0.05 * k, 2) for k in range(1, 25))
#: The most that false alarms may come to, at the upper end of their interval.
ALLOWED = 0.01
#: Beyond the level by more than this a strength is far beyond it.
FAR = 0.6
#: The families that a net of the other study belongs to: its reader has seen none of these.
KIN = {
    "digits": ("mlp-shallow", "mlp-deep", "mlp-pairs", "wide", "smooth"), "text": ("text", "transformer"),
    "vgg11": ("conv", "images"), "alexnet": ("conv", "images"), "cifar10": ("conv", "images"),
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A run: its place in decades above its level, what its first rows read, and its configuration."""

    place: float
    told: float
    key: str


def readings(known: Sequence[Case], family: str, reader: Reader) -> list[Reading]:
    """Every probe of a family, read."""
    return [
        Reading(probe.place, reader.read(probe.features), case.configuration.key)
        for case in known
        if case.configuration.family == family
        for probe in case.probes
    ]


def chosen(others: Sequence[Reading]) -> float:
    """The fewest decades at which the false alarms of these are known to be rare enough; the most where none is."""
    below = [r.told for r in others if r.place <= 0]
    fit = (d for d in DECADES if wilson(sum(told > d for told in below), len(below))[1] < ALLOWED)
    return next(fit, DECADES[-1])


@dataclass(frozen=True)
class Tally:
    """False alarms of runs below their level and of their configurations, and catches: counts, and of how many."""

    false: tuple[int, int]
    configurations: tuple[int, int]
    caught: tuple[int, int]
    far: tuple[int, int]

    @classmethod
    def of(cls, those: Sequence[tuple[Reading, float]]) -> Tally:
        """Count readings, each with its decades."""

        def count(some: Sequence[tuple[Reading, float]]) -> tuple[int, int]:
            return sum(r.told > decades for r, decades in some), len(some)

        below = [one for one in those if one[0].place <= 0]
        alarmed = {r.key for r, decades in below if r.told > decades}
        return cls(
            count(below), (len(alarmed), len({r.key for r, _ in below})),
            count([one for one in those if one[0].place > 0]), count([one for one in those if one[0].place > FAR]),
        )  # fmt: skip

    @property
    def cells(self) -> list[str]:
        """As a table shows them."""
        return [shown(*pair) for pair in (self.false, self.configurations, self.caught, self.far)]


def shown(count: int, of: int) -> str:
    """Say a share with its 95 % interval."""
    low, high = wilson(count, of)
    return f"{count} of {of} ({100 * low:.2g}-{100 * high:.2g} %)" if of else "none"


def cells(asked: Options) -> list[Cell]:
    """Every run of the other study's grid under a penalty from the start."""
    rows = (row for row in Results(STUDY.results / GRID).rows() if row["strength"] and not row["schedule"])
    return [{name: row[name] for name in ("task", "seed", "strength")} for row in rows]


def first_rows(cell: Cell, asked: Options) -> Row:
    """The first rows of a run: features, or why they are not read."""
    told = Instructions(on_failure="ignore", on_success="ignore", probe_steps=ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with instructed(told), contextlib.suppress(Stopped):
            train(cell["task"], cell["strength"], cell["seed"], path)
        with Record(path) as record:
            probe = probe_of(record, rows=ROWS)
            probe = probe.first(rows_needed(probe))
            why = unreadable(probe, invariant_share(record))
    return {"why": why, "features": None if why else [float(f"{x:.6g}") for x in features(probe)]}


def levels() -> dict[str, float]:
    """log₁₀ of the level of each task, from the outcomes of its grid."""
    found = {}
    for name, task in TASKS.items():
        posterior = Posterior(task.low, task.high)
        rows = [
            r for r in Results(STUDY.results / GRID).rows() if r["task"] == name and r["strength"] and not r["schedule"]
        ]
        outcomes = [Outcome(r["strength"], r["failed"], r["stopped"]) for r in rows]
        for outcome in outcomes:
            posterior.update(outcome)
        if outcomes and (level := posterior.estimate(outcomes).tolerance) is not None:
            found[name] = float(np.log10(level))
    return found


def fresh(known: Sequence[Case], folder: Path) -> dict[str, list[Reading]]:
    """The other study's runs, each read by a reader that has seen no net of its kind."""
    level, found = levels(), dict[str, list[Reading]]()
    for name, kin in KIN.items():
        rows = [row for row in Results(folder / FRESH).rows() if row["task"] == name and row["features"]]
        if name in level and rows:
            reader = fitted([case for case in known if case.configuration.family not in kin])
            found[name] = [
                Reading(np.log10(row["strength"]) - level[name], reader.read(np.array(row["features"])), name)
                for row in rows
            ]
    return found


def nested(known: Sequence[Case], families: Sequence[str]) -> dict[str, float]:
    """For each family the decades that the others choose, read without it."""
    without: dict[str, list[Reading]] = {family: [] for family in families}
    for one, other in combinations(families, 2):
        reader = fitted([case for case in known if case.configuration.family not in (one, other)])
        without[one] += readings(known, other, reader)
        without[other] += readings(known, one, reader)
    return {family: chosen(others) for family, others in without.items()}


def text(seen: Mapping[str, list[Reading]], decades: Mapping[str, float], new: Mapping[str, list[Reading]]) -> str:
    """The tables."""
    everything = [(r, f) for f, those in seen.items() for r in those]
    columns = ["decades", "false alarms, runs below", "configurations with one", "caught above", f"of those > {FAR:g}"]
    shipped = [[f"{d:g}", *Tally.of([(r, d) for r, _ in everything]).cells] for d in (0.3, 0.45, BEYOND, 0.9)]
    chose = ["chosen without the family", *Tally.of([(r, decades[f]) for r, f in everything]).cells]
    rows = [_row(name, those) for name, those in new.items()]
    rows += [_row("together", [r for those in new.values() for r in those])] if rows else []
    said = ", ".join(f"{f} {d:g}" for f, d in decades.items())
    return "\n".join([
        "Written by `python -m analyses plot prediction` from probes.npz and warned.jsonl.", "",
        "A warning where the first rows read as more than so many decades above the level (95 % intervals: Wilson).",
        "Probes, families held out:", "", markdown(columns, [*shipped, chose]), "",
        f"Chosen without the family: {said}.", "",
        f"Other runs, by {BEYOND:g} decades, each read without any family of its kind; places are measured from the",
        "level of the same grid:", "",
        markdown(["task", "decades above the level", "false alarms", "caught above", f"of those > {FAR:g}"], rows), "",
    ])  # fmt: skip


def _row(name: str, those: Sequence[Reading]) -> list[str]:
    tally, places = Tally.of([(r, BEYOND) for r in those]), [r.place for r in those]
    counts = (shown(*pair) for pair in (tally.false, tally.caught, tally.far))
    return [name, f"{min(places):.1f} to {max(places):.1f}", *counts]


def warned(found: Found, folder: Path) -> str:
    """The tables of what there is."""
    known, _, readers = found["direct"]
    seen = {family: readings(known, family, reader) for family, reader in readers.items()}
    return text(seen, nested(known, list(seen)), fresh(known, folder))
