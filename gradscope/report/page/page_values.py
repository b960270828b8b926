"""Contents of a page, as typed values: everything that is drawn or written is in here first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import Strength
from gradscope.report.page.windows import Envelope
from gradscope.types import Verdict

Array = NDArray[np.floating]


#: Labels, and for each layer the place of its own.
Blocks = tuple[tuple[str, ...], tuple[int, ...]]


#: Runs whose layers are shown; the others are in the comparison.
DETAILED = 8


#: Lines of the table over time.
MOMENTS = 12


@dataclass(frozen=True)
class Mark:
    """Something that happened.

    Attributes:
        step: −1 before the first.
        kind: of event.
        text: what happened.
    """

    step: int
    kind: str
    text: str


@dataclass(frozen=True)
class PageQuantity:
    """One quantity by layer.

    Attributes:
        names: of its K columns.
        envelope: extremes and mean, [W, K].
        weight: what a mean over several layers weighs them by, [W, K]; None: by their entries.
    """

    names: tuple[str, ...]
    envelope: Envelope
    weight: Array | None = None


@dataclass(frozen=True)
class LayerRow:
    """Line of the table of layers, with means of the first and the last window that hold one; NaN: nothing recorded.

    Attributes:
        name: of the layer.
        penalised: whether a penalty acts on it.
        gradient: mean |∂L/∂w|, first and last.
        weight: mean |w|, first and last.
        proportion: share of the loss gradient, first and last.
        balance: radial balance, last.
        faded_at: step from which the gradient has faded, None if it has not.
    """

    name: str
    penalised: bool
    gradient: tuple[float, float]
    weight: tuple[float, float]
    proportion: tuple[float, float]
    balance: float
    faded_at: int | None


@dataclass(frozen=True)
class PageMoment:
    """Stretch of the run.

    Attributes:
        begin: its first step.
        end: its last step.
        values: means of the whole network by quantity.
    """

    begin: int
    end: int
    values: dict[str, float]


@dataclass(frozen=True)
class RunPage:
    """One run, as a page shows it: P of its parameters, in W windows of rows.

    Attributes:
        label: name of the run.
        path: of the record.
        status: of the record.
        rows: that were read.
        horizon: planned steps, None where none were given.
        strength: the largest that acted; 0 where none did.
        penalty: its word.
        schedule: its text.
        optimizer: with its learning rate, in words.
        baseline: loss of the best constant predictor.
        diagnosis: with what the rules found.
        parameters: names of those that are in the page, [P].
        numel: their entries, [P].
        layers_total: parameters of the whole model.
        blocks: labels of the blocks of the model, and the place of each parameter's among them, [P].
        module_blocks: the same for the modules.
        begin: first step of each window, [W].
        end: last step of each window, [W].
        window_rows: rows of a window.
        windows_per_pass: windows that a pass over the data takes.
        network: quantities of the whole network by name.
        quantities: quantities by layer, by name.
        table: of the layers.
        marks: what happened.
        metrics: of the epochs, with ``epoch`` itself, [epochs] each.
        capture: name and text of each entry.
    """

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
    numel: NDArray[np.float64]
    layers_total: int
    blocks: Blocks
    module_blocks: Blocks
    begin: Array
    end: Array
    window_rows: int
    windows_per_pass: int
    network: dict[str, Envelope]
    quantities: dict[str, PageQuantity]
    table: tuple[LayerRow, ...]
    marks: tuple[Mark, ...]
    metrics: dict[str, NDArray[np.float64]]
    capture: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what ``gradscope report --json`` prints."""
        found = [finding.as_dict() for finding in self.diagnosis.findings]
        own = {"path": self.path, "sentence": self.sentence, "rows": self.rows}
        return {**own, **self.diagnosis.as_dict(), "findings": found}

    @property
    def named(self) -> dict[str, str]:
        """Layers and modules that verdict and rules name, in that order, and which did. A module names its weights."""
        told = [("verdict", self.diagnosis.layers), *((f.rule, f.layers) for f in self.diagnosis.findings)]
        weights: dict[str, list[str]] = {}
        for row in self.table:
            if row.penalised:
                weights.setdefault(row.name.rpartition(".")[0], []).append(row.name)
        found: dict[str, list[str]] = {}
        for source, layers in told:
            for layer in layers:
                for name in (layer, *weights.get(layer, ())):
                    found.setdefault(name, []).append(source)
        return {layer: ", ".join(dict.fromkeys(sources)) for layer, sources in found.items()}

    @property
    def last_loss(self) -> float:
        """The loss of the last window that holds one."""
        return first_and_last(self.network["loss"].mean[:, 0])[1]

    @property
    def moments(self) -> tuple[PageMoment, ...]:
        """The run in at most `MOMENTS` stretches, for a table."""
        edges = np.linspace(0, len(self.begin), min(MOMENTS, len(self.begin)) + 1).astype(int)
        series = {name: envelope.mean[:, 0] for name, envelope in self.network.items()}
        return tuple(
            PageMoment(int(self.begin[a]), int(self.end[b - 1]), {name: _mean(y[a:b]) for name, y in series.items()})
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
        """The strength in words, an L2 strength with its weight decay first."""
        return str(Strength(self.strength, self.penalty))


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes:
        title: of the page.
        runs: the records.
        differences: settings that are not equal in all runs: a name, and one value a run.
    """

    title: str
    runs: tuple[RunPage, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def detailed(self) -> tuple[RunPage, ...]:
        """The runs whose layers are shown."""
        return self.runs[:DETAILED]


def first_and_last(values: Array) -> tuple[float, float]:
    """Return the first and the last number that is known; NaN where none is."""
    known = values[np.isfinite(values)]
    return (float(known[0]), float(known[-1])) if len(known) else (float("nan"), float("nan"))


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
