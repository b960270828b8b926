"""Summary of one look at a run, as typed values; `terminal.py` draws it, ``--json`` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from gradscope.quantities import OF_NETWORK, STRENGTH, Quantity
from gradscope.report.live.underflow import Underflow, duration, underflow
from gradscope.report.page.page_values import LayerRow, Mark, RunPage

#: The lines with a sparkline, whose height follows the logarithm of what spans decades.
LINES = tuple(q for q in OF_NETWORK.values() if q is not STRENGTH)
WORST, EVENTS = 5, 4


@dataclass(frozen=True)
class Line:
    """One series over the whole run.

    Attributes:
        name: symbol of the quantity.
        values: one a window, [W].
        last: the last known value.
        log: its height follows the logarithm.
    """

    name: str
    values: tuple[float, ...]
    last: float
    log: bool


@dataclass(frozen=True)
class Worst:
    """Layer whose loss gradient has faded.

    Attributes:
        name: of the layer.
        gradient: mean |∂L/∂w| now.
        gradient_left: that, as a share of its start.
        weight_left: mean |w|, as a share of its start.
        proportion: share of the loss gradient in both gradients.
    """

    name: str
    gradient: float
    gradient_left: float
    weight_left: float
    proportion: float


@dataclass(frozen=True)
class Frame:
    """One look at a run.

    Attributes:
        label: name of the run.
        status: what it is doing.
        sentence: the verdict and what to do, in words.
        verdict: the judge's.
        probability_failed: how sure the judge is.
        step: the last one seen.
        rows: seen so far.
        horizon: steps of the whole run, None where unknown.
        steps_per_second: over the latest rows.
        seconds_left: to the horizon, None where either is unknown.
        findings: of the rules, in words.
        lines: series of the network.
        worst: layers that have faded most.
        underflow: the layer that leaves float32 first.
        events: the latest.
        run: what the look was made of, for layers that are chosen.
    """

    label: str
    status: str
    sentence: str
    verdict: str
    probability_failed: float
    step: int
    rows: int
    horizon: int | None
    steps_per_second: float | None
    seconds_left: float | None
    findings: tuple[str, ...]
    lines: tuple[Line, ...]
    worst: tuple[Worst, ...]
    underflow: Underflow | None
    events: tuple[Mark, ...]
    run: RunPage = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``gradscope watch --json`` prints; of the series, their last values."""
        told = {
            "lines": {line.name: line.last for line in self.lines},
            "worst": [asdict(one) for one in self.worst],
            "underflow": asdict(self.underflow) if self.underflow else None,
            "events": [asdict(one) for one in self.events],
        }
        shown = {one.name: told.get(one.name, getattr(self, one.name)) for one in fields(self) if one.name != "run"}
        return {**shown, "underflow_sentence": self.underflow.sentence if self.underflow else None}

    @property
    def head(self) -> str:
        """Where the run is, in one line."""
        of = f" of {self.horizon:,}" if self.horizon else ""
        pace = "" if self.steps_per_second is None else f" · {self.steps_per_second:,.3g} steps/s"
        left = "" if self.seconds_left is None else f" · {duration(self.seconds_left)} left"
        return f"{self.label} · {self.status} · step {self.step:,}{of}{pace}{left}"


def frame(run: RunPage, steps_per_second: float | None, over: bool) -> Frame:
    """Summarise a run, as far as a terminal shows it. ``over``: it was read to its end, and nobody writes."""
    status = run.status
    if over != (status != "running"):
        status = "left by its writer" if over else "reading"
    step, going = int(run.end[-1]), status == "running"
    left = None
    if going and run.horizon and steps_per_second:
        left = max(0.0, (run.horizon - 1 - step) / steps_per_second)
    return Frame(
        label=run.label,
        status=status,
        sentence=run.sentence,
        verdict=str(run.diagnosis.verdict),
        probability_failed=run.diagnosis.probability_failed,
        step=step,
        rows=run.rows,
        horizon=run.horizon,
        steps_per_second=steps_per_second,
        seconds_left=left,
        findings=tuple(finding.now for finding in run.diagnosis.told),
        lines=tuple(_line(run, q) for q in LINES),
        worst=worst_off(run.table),
        underflow=underflow(run, steps_per_second if going else None),
        events=tuple(mark for mark in run.marks if mark.step >= 0)[-EVENTS:],
        run=run,
    )


def worst_off(table: tuple[LayerRow, ...]) -> tuple[Worst, ...]:
    """List the layers whose loss gradient has faded most, worst first; penalised ones where there are any."""
    watched = [row for row in table if row.penalised] or list(table)
    found = [
        Worst(row.name, row.gradient[1], _share(row.gradient), _share(row.weight), row.proportion[1]) for row in watched
    ]
    faded = [one for one in found if one.gradient_left < 1]
    return tuple(sorted(faded, key=lambda one: one.gradient_left)[:WORST])


def _share(ends: tuple[float, float]) -> float:
    return ends[1] / ends[0] if ends[0] > 0 else float("nan")


def _line(run: RunPage, q: Quantity) -> Line:
    values = run.network[q.word].mean[:, 0]
    known = values[np.isfinite(values)]
    return Line(q.symbol, tuple(values.tolist()), float(known[-1]) if len(known) else float("nan"), q.log)
