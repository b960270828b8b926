"""Compare records: the settings that differ, the verdicts, numbers and curves in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradscope import quantities
from gradscope.diagnosis.cost import Finished, costs
from gradscope.quantities import Strength
from gradscope.report.curves import Curve, Curves
from gradscope.report.summary import RunSeries, labelled, load_run, over_time
from gradscope.store.settings import differing, table
from gradscope.types import InputError

#: The curves that are shown, and into how many windows they are averaged.
SHOWN = tuple(f"{q.word}-closeup" if q.closeup else q.word for q in quantities.COMPARED)
WINDOWS = 40


@dataclass(frozen=True)
class Side:
    """One of the compared records.

    Attributes:
        path: the file.
        label: short name.
        verdict: the judge's.
        sentence: the verdict in words.
        failed: whether the run does not learn.
        numbers: key numbers, None where the record does not hold what it takes.
    """

    path: Path
    label: str
    verdict: str
    sentence: str
    failed: bool
    numbers: Mapping[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """What several records have in common and what not.

    Attributes:
        sides: the records.
        differing: settings by name, a value a record, None where a record has no such setting.
        alike: how many settings are the same in all.
        curves: by quantity, a line a record.
        notes: which curves are missing where.
        costs: what penalties cost or gain beside the one run without, in sentences.
    """

    sides: tuple[Side, ...]
    differing: Mapping[str, tuple[str | None, ...]]
    alike: int
    curves: Mapping[str, Curves]
    notes: tuple[str, ...]
    costs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as `gradscope compare --json` prints them."""
        return {
            "runs": [
                {"path": str(s.path), "label": s.label, "verdict": s.verdict, "sentence": s.sentence,
                 "failed": s.failed, "numbers": dict(s.numbers)}
                for s in self.sides
            ],
            "differing": {name: list(values) for name, values in self.differing.items()},
            "alike": self.alike,
            "curves": {name: curves.as_dict() for name, curves in self.curves.items()},
            "notes": list(self.notes),
            "costs": list(self.costs),
        }  # fmt: skip


def compare(paths: Sequence[Path]) -> Comparison:
    """Compare two or more records; raise `InputError` for fewer."""
    if len(paths) < 2:
        raise InputError(f"{len(paths)} record was given; compare takes at least two")
    runs = [load_run(path) for path in paths]
    runs = [replace(run, label=label) for run, label in zip(runs, labelled(runs), strict=True)]
    settings = table([run.settings for run in runs])
    apart = differing(settings)
    curves, notes = _curves(runs)
    finished = [Finished(run.label, Strength(run.strength, run.penalty), run.failed, run.metrics) for run in runs]
    told = tuple(costs(finished))
    return Comparison(tuple(map(_side, runs)), apart, len(settings) - len(apart), curves, tuple(notes), told)


def _side(run: RunSeries) -> Side:
    found = run.diagnosis
    return Side(run.path, run.label, str(found.verdict), found.sentence, found.failed, _numbers(run))


def _numbers(run: RunSeries) -> dict[str, float | None]:
    """Compute key numbers of a run; those of the end are means over the last 5 % of the rows."""
    series = run.series
    last = slice(-max(1, len(series) // 20), None)
    found: dict[str, float] = {
        "strength": run.strength,
        **({} if (decay := Strength(run.strength, run.penalty).weight_decay) is None else {"weight_decay": decay}),
        "steps": series.step[-1] + 1,
        "active_step": _or_nan(run.diagnosis.active_step),
        "decided_step": _or_nan(run.diagnosis.decided_step),
        "baseline_loss": run.baseline,
        **{f"{q.axis} at the end": _mean(getattr(series, q.word)[last]) for q in quantities.COMPARED},
        "share of zeros at the end": run.sparsity,
    }
    for name, values in run.metrics.items():
        finite = values[np.isfinite(values)]
        if name != "epoch" and len(finite):
            found |= {f"{name}, last": float(finite[-1]), f"{name}, highest": float(finite.max())}
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}


def _or_nan(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else float("nan")


def _curves(runs: Sequence[RunSeries]) -> tuple[dict[str, Curves], list[str]]:
    """Compute the quantities that at least one record holds, with an empty line for the others, and what is missing."""
    curves, notes = {}, []
    for quantity in SHOWN:
        lines = []
        for run in runs:
            try:
                lines.append(over_time([run], quantity, WINDOWS))
            except InputError as error:
                notes.append(str(error))
        if lines:
            here = {line.curves[0].label: line.curves[0] for line in lines}
            empty = np.empty(0)
            found = tuple(here.get(run.label, Curve(run.label, empty, empty)) for run in runs)
            curves[quantity] = replace(lines[0], curves=found)
    return curves, notes


def panels(comparison: Comparison) -> list[Curves]:
    """Arrange the panels that `gradscope compare -o` draws."""
    shown = [replace(curves, keyed="never") for curves in comparison.curves.values()]
    beside = min(1, len(shown) - 1)  # the upper right one of four
    return [replace(curves, keyed="outside") if k == beside else curves for k, curves in enumerate(shown)]
