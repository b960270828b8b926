"""The trained rows by what they are: series over strengths, the best of them, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.common.results import Cell, Row
from analyses.common.statistics import Mean, mean
from gradscope.report.strengths import Sample


@dataclass(frozen=True)
class Point:
    """The runs of one net, penalty, strength and schedule: their seeds, accuracies and sparsities."""

    strength: float
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    sparsities: tuple[float, ...]
    failed: int

    @property
    def accuracy(self) -> Mean:
        return mean(self.accuracies)

    def beside(self, other: Point) -> tuple[float, ...]:
        """The accuracies whose seeds the other has, too: an unfinished panel is compared by what both have."""
        return tuple(a for seed, a in zip(self.seeds, self.accuracies, strict=True) if seed in other.seeds)

    @property
    def sparsity(self) -> float:
        return mean(self.sparsities).value


def chosen(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """The trainings with these values: no searches, no trials of them, no traced repetitions of a cell."""
    plain = (row for row in rows if "accuracy" in row and "said" not in row and not row.get("layers"))
    return [row for row in plain if all(row[name] == value for name, value in wanted.items())]


def alike(rows: Sequence[Row]) -> list[Row]:
    """Those with seeds that every schedule has: a mean of one seed says nothing beside one of three."""
    seeds = [{row["seed"] for row in rows if row["schedule"] == text} for text in {row["schedule"] for row in rows}]
    return [row for row in rows if all(row["seed"] in some for some in seeds)]


def series(rows: Sequence[Row], net: str, penalty: str, schedule: str) -> list[Point]:
    """One point a strength, weakest first."""
    found = chosen(rows, net=net, penalty=penalty, schedule=schedule)
    points = []
    for strength in sorted({row["strength"] for row in found}):
        some = [row for row in found if row["strength"] == strength]
        seeds, accuracies, sparsities = (tuple(row[name] for row in some) for name in ("seed", "accuracy", "sparsity"))
        points.append(Point(strength, seeds, accuracies, sparsities, sum(row["failed"] for row in some)))
    return points


def best(points: Sequence[Point]) -> Point | None:
    """The point of the highest mean accuracy: a baseline is as well tuned as the document's."""
    return max(points, key=lambda point: point.accuracy.value, default=None)


def sparsest(points: Sequence[Point], accuracy: float) -> Point | None:
    """The sparsest point whose mean accuracy is at least ``accuracy``: the document's "sparse" row."""
    return max((p for p in points if p.accuracy.value >= accuracy), key=lambda point: point.sparsity, default=None)


def sample(rows: Sequence[Row], label: str, net: str, penalty: str, schedule: str) -> Sample:
    """The same as `series`, run by run, for the figures of gradscope."""
    found = chosen(rows, net=net, penalty=penalty, schedule=schedule)
    columns = ([row[name] for row in found] for name in ("strength", "accuracy", "sparsity"))
    return Sample.of(label, *columns)


def trained(rows: Sequence[Row], planned: Sequence[Cell]) -> int:
    """How many of the planned cells there are."""
    return sum(any(all(row.get(name) == value for name, value in cell.items()) for row in rows) for cell in planned)
