"""What a page says, as typed values: everything that is drawn or written is in here first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.finding import Finding
from gradscope.diagnosis.rules.post_hoc import validation_losses
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import BY_LAYER, BY_MODULE, OF_NETWORK, Strength
from gradscope.report.page.fold import NAMES, Fold
from gradscope.report.page.windows import Envelope
from gradscope.report.settings import differing, settings_of, table
from gradscope.store.record import Record
from gradscope.types import InputError, Verdict

Array = NDArray[np.floating]

#: Numbers of the layers in one page, all runs together; two bytes each, and a third more in base64.
VALUES = 400_000
#: Runs whose layers are shown; the others are in the comparison.
DETAILED = 8
#: Lines of the table over time.
MOMENTS = 12
#: A gradient that stays below this share of where it began has faded.
FADED = 0.1


@dataclass(frozen=True)
class Mark:
    """Something that happened. ``step``: −1 before the first."""

    step: int
    kind: str
    text: str


@dataclass(frozen=True)
class Quantity:
    """One quantity by layer: an envelope [W, K] and the names of its K columns."""

    names: tuple[str, ...]
    envelope: Envelope


@dataclass(frozen=True)
class LayerRow:
    """A line of the table of layers. Means of the first and the last window that hold one; NaN: nothing recorded."""

    name: str
    penalised: bool
    gradient: tuple[float, float]
    weight: tuple[float, float]
    proportion: tuple[float, float]
    balance: float
    faded_at: int | None


@dataclass(frozen=True)
class Moment:
    """A stretch of the run: means of the whole network by quantity."""

    begin: int
    end: int
    values: dict[str, float]


@dataclass(frozen=True)
class RunPage:
    """One run. ``begin``, ``end``: the first and the last step of each window, [W]."""

    label: str
    path: str
    status: str
    rows: int
    horizon: int | None
    strength: float
    penalty: str
    schedule: str
    optimizer: str
    baseline: float
    diagnosis: Diagnosis
    parameters: tuple[str, ...]
    layers_total: int
    begin: Array
    end: Array
    window_rows: int
    network: dict[str, Envelope]
    quantities: dict[str, Quantity]
    balance: Array
    table: tuple[LayerRow, ...]
    marks: tuple[Mark, ...]
    metrics: dict[str, NDArray[np.float64]]
    capture: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As ``gradscope report --json`` prints it."""
        return {"path": self.path, "sentence": self.sentence, "rows": self.rows, **self.diagnosis.as_dict()}

    @property
    def last_loss(self) -> float:
        """The loss of the last window that holds one."""
        return _ends(_middle(self.network["loss"])[:, 0])[1]

    @property
    def moments(self) -> tuple[Moment, ...]:
        """The run in at most `MOMENTS` stretches, for a table."""
        edges = np.linspace(0, len(self.begin), min(MOMENTS, len(self.begin)) + 1).astype(int)
        series = {name: _middle(envelope)[:, 0] for name, envelope in self.network.items()}
        return tuple(
            Moment(int(self.begin[a]), int(self.end[b - 1]), {name: _mean(y[a:b]) for name, y in series.items()})
            for a, b in pairwise(edges)
        )

    @property
    def sentence(self) -> str:
        """The verdict and what to do, in one sentence."""
        d = self.diagnosis
        if d.verdict is Verdict.UNDECIDED:
            return f"{self.label} is not decided yet: it is too early to say whether it learns."
        if not d.failed:
            since = "" if d.active_step is None else f", in its active phase from step {d.active_step}"
            return f"{self.label} learns{since}. Remedy: {d.remedy}."
        return f"{self.label} does not learn, {d.sentence}: {d.remedy}."

    @property
    def decay(self) -> str:
        """The strength in words, an L2 strength with its weight decay beside it."""
        return f"λ = {Strength(self.strength, self.penalty)}"


@dataclass(frozen=True)
class Page:
    """Everything on the page: the runs, and how they differ. ``more``: runs beyond those in detail."""

    title: str
    runs: tuple[RunPage, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def detailed(self) -> tuple[RunPage, ...]:
        """The runs whose layers are shown."""
        return self.runs[:DETAILED]


def page_of(paths: Sequence[Path], labels: Sequence[str] | None = None) -> Page:
    """The page of these records, each read once and in bounded memory.

    Raises `InputError` for a file that is no record, or holds no row.
    """
    if not paths:
        raise InputError("no record was given; expected at least one, such as run.h5")
    values = VALUES // min(len(paths), DETAILED)
    names = labels or _labels(paths)
    runs, settings = [], []
    for path, label in zip(paths, names, strict=True):
        with Record(path) as record:
            if not record.rows:
                raise InputError(f"{path} is empty: no training step was recorded, so there is nothing to report")
            fold, rules = read(record, values)
            runs.append(run_page(label, record, fold, rules))
            settings.append(settings_of(record))
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs"
    return Page(title, tuple(runs), differences(settings))


def _labels(paths: Sequence[Path]) -> list[str]:
    """File names; with as much of the folder as tells them apart."""
    for depth in range(1, 5):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read(record: Record, values: int) -> tuple[Fold, Checker]:
    """A fold and the rules, which have seen every row of the record, read once."""
    fold = Fold(record.info, values, record.rows)
    rules = Checker(record.info, None, validation_losses(record.metrics))
    feed({fold: NAMES, rules: NEEDED}, record)
    return fold, rules


def run_page(label: str, record: Record, fold: Fold, rules: Checker, whole: bool = True) -> RunPage:
    """The summary of a run from what was folded of it, and what the rules found; the record gives the settings.

    ``whole``: every row was folded, so that a finished run may be judged by its end.
    """
    windows = fold.windows
    steps = windows.envelope("step")
    diagnosis = fold.judge.diagnosis(finished=whole and record.finished)
    quantities = _quantities(fold)
    balance = _balance(fold)
    strength = windows.envelope("network strength").high
    return RunPage(
        label=label,
        path=str(record.path),
        status=record.status,
        rows=fold.windows.rows,
        horizon=fold.info.horizon,
        strength=float(np.nanmax(strength)) if np.isfinite(strength).any() else 0.0,
        penalty=record.penalty,
        schedule=record.schedule,
        optimizer=f"{record.optimizer}, learning rate {_rate(record.learning_rate)}",
        baseline=fold.judge.baseline,
        diagnosis=diagnosis,
        parameters=tuple(fold.info.parameters[i] for i in fold.parameters),
        layers_total=len(fold.info.parameters),
        begin=steps.low[:, 0],
        end=steps.high[:, 0],
        window_rows=windows.size,
        network={name: windows.envelope(f"network {name}") for name in OF_NETWORK},
        quantities=quantities,
        balance=balance,
        table=_table(fold, quantities, balance, steps.low[:, 0]),
        marks=_marks(record, diagnosis),
        metrics={name: np.asarray(v, dtype=np.float64) for name, v in record.metrics.items()},
        capture=tuple((name, _text(value)) for name, value in record.capture.items()),
        findings=tuple(rules.findings),
    )


def _quantities(fold: Fold) -> dict[str, Quantity]:
    found = {}
    names = tuple(fold.info.parameters[i] for i in fold.parameters)
    for name in BY_LAYER:
        if name not in fold.windows:
            continue
        envelope = fold.windows.envelope(name)
        penalised = fold.info.penalised[fold.parameters]
        kept = penalised if name in ("penalty", "proportion") else np.ones_like(penalised)
        if kept.any():
            part = Envelope(envelope.low[:, kept], envelope.high[:, kept], envelope.rising[:, kept])
            found[name] = Quantity(tuple(n for n, k in zip(names, kept, strict=True) if k), part)
    for name in BY_MODULE:
        if name in fold.windows:
            found[name] = Quantity(fold.module_names, fold.windows.envelope(name))
    return found


def _balance(fold: Fold) -> Array:
    """B = Σ⟨w, −∂L/∂w⟩ / Σ⟨w, λ∂Ω/∂w⟩ over each window, [W, P]; NaN where no penalty pushes."""
    if "push" not in fold.windows:
        return np.full((fold.windows.count, len(fold.parameters)), np.nan)
    push = fold.windows.sum("push")
    return np.divide(fold.windows.sum("pull"), push, out=np.full_like(push, np.nan), where=push > 0)


def _table(fold: Fold, quantities: dict[str, Quantity], balance: Array, begin: Array) -> tuple[LayerRow, ...]:
    """One line a layer that is drawn."""
    columns = {name: dict(zip(q.names, _middle(q.envelope).T, strict=True)) for name, q in quantities.items()}
    lines = []
    for place, index in enumerate(fold.parameters):
        name = fold.info.parameters[index]
        seen = {key: columns.get(key, {}).get(name, np.array([])) for key in ("gradient", "weight", "proportion")}
        ends = {key: _ends(values) for key, values in seen.items()}
        faded = faded_at(seen["gradient"], begin)
        b = _ends(balance[:, place])[1]
        penalised = bool(fold.info.penalised[index])
        lines.append(LayerRow(name, penalised, ends["gradient"], ends["weight"], ends["proportion"], b, faded))
    return tuple(lines)


def _middle(envelope: Envelope) -> Array:
    return (envelope.low.astype(np.float64) + envelope.high) / 2


def _ends(values: Array) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known[0]), float(known[-1])) if len(known) else (float("nan"), float("nan"))


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def faded_at(gradient: Array, begin: Array) -> int | None:
    """The step from which the gradient [W] stays below `FADED` of its first value; None if it does not."""
    known = np.flatnonzero(np.isfinite(gradient))
    if not len(known):
        return None
    above = np.flatnonzero(gradient[known] >= FADED * gradient[known[0]])
    first = int(above[-1]) + 1 if len(above) else 0
    return int(begin[known[first]]) if first < len(known) else None


def _marks(record: Record, diagnosis: Diagnosis) -> tuple[Mark, ...]:
    """Events of the record, and the steps that the judge names."""
    verdict = diagnosis.verdict
    named: list[tuple[int | None, str, str]] = [(diagnosis.active_step, "active phase", "the run leaves the baseline")]
    if diagnosis.failed:
        named = [
            (diagnosis.onset_step, "onset", f"{verdict} from here"),
            (diagnosis.decided_step, "decidable", f"{verdict} can be told from the record"),
        ]
    judged = [Mark(step, kind, text) for step, kind, text in named if step is not None]
    told = [Mark(event["step"], event["kind"], event["text"]) for event in record.events]
    return tuple(sorted([*judged, *told], key=lambda mark: mark.step))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# -- how runs differ --------------------------------------------------------------------------------


def differences(settings: Sequence[Mapping[str, str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The settings that are not equal in all runs: a name, and one value a run, as a page shows it."""
    found = differing(table(settings))
    return tuple((n, tuple("–" if v is None else v.strip('"') for v in row)) for n, row in found.items())


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
