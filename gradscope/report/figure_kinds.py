"""Table of figures: what each shows, what it needs, how it is put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gradscope import checks, quantities
from gradscope.report.curves import Curves, Panel
from gradscope.report.layers import ALL, LayerChoice, by_layer, over_steps, profiles
from gradscope.report.strengths import accuracy_against_sparsity
from gradscope.report.summary import (
    OVER_TIME,
    RunSeries,
    accuracy_by_strength,
    by_setting,
    ends_by_strength,
    labelled,
    last_metric,
    over_time,
    sample,
)
from gradscope.report.traces import learning_curves, strength_traces
from gradscope.report.weights import weight_histograms
from gradscope.store.record import Record
from gradscope.types import InputError

#: More runs than this are no longer told apart over time, so their ends are drawn against the strength.
MOST_OVER_TIME = 12


@dataclass(frozen=True)
class Wanted:
    """What a figure is asked to show.

    Attributes:
        metric: of the epochs.
        against: the x axis, None: whatever suits the number of runs.
        choice: which layers.
        quantity: of a map of layers.
        steps: of a profile over depth.
    """

    metric: str = "accuracy"
    against: Literal["step", "epoch", "strength"] | None = None
    choice: LayerChoice = ALL
    quantity: str = quantities.GRADIENT.word
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Kind:
    """Kind of figure.

    Attributes:
        shows: what it shows, in a line.
        build: from runs to panels.
        against: the axes it may have, the usual one first; empty where it has its own.
    """

    shows: str
    build: Callable[[Sequence[RunSeries], Wanted], Sequence[Panel]]
    against: tuple[str, ...] = ()


def _accuracy(runs: Sequence[RunSeries], wanted: Wanted) -> list[Curves]:
    if len(runs) == 1:  # one run is a curve, and no dot
        last_metric(runs[0], wanted.metric)  # says what is missing
        return learning_curves(runs, wanted.metric)[-1:]
    return [accuracy_by_strength(by_setting(runs), wanted.metric)]


def _sparsity(runs: Sequence[RunSeries], wanted: Wanted) -> list[Curves]:
    for run in runs:
        if run.sparsity != run.sparsity:
            raise InputError(f"{run.path} holds no weight_zero_fraction: record with preset='standard' or 'full'")
    samples = [sample(label, group, wanted.metric) for label, group in by_setting(runs).items()]
    return [accuracy_against_sparsity(samples, quantity=wanted.metric)]


def _over_time(quantity: str) -> Callable[[Sequence[RunSeries], Wanted], list[Curves]]:
    def build(runs: Sequence[RunSeries], wanted: Wanted) -> list[Curves]:
        against = wanted.against
        if against is None:
            against = "strength" if len(runs) > MOST_OVER_TIME and len({run.strength for run in runs}) > 2 else "step"
        if against == "strength":
            return [ends_by_strength(by_setting(runs), quantity)]
        return [over_time(runs, quantity, against=against)]

    return build


def _several(*figures: str) -> Callable[[Sequence[RunSeries], Wanted], list[Curves]]:
    """Put panels side by side, of which the first explains the lines."""

    def build(runs: Sequence[RunSeries], wanted: Wanted) -> list[Curves]:
        panels = [panel for name in figures for panel in _over_time(name)(runs, wanted)]
        return [panels[0], *(replace(panel, keyed="never") for panel in panels[1:])]

    return build


def _of_one(build: Callable[[Record, Wanted], Sequence[Panel]]) -> Callable[[Sequence[RunSeries], Wanted], list[Panel]]:
    """Build figures by layer, which are of one run."""

    def of(runs: Sequence[RunSeries], wanted: Wanted) -> list[Panel]:
        if len(runs) > 1:
            raise InputError(f"{len(runs)} records were given; a figure by layer is of one")
        with Record(runs[0].path) as record:
            if panels := list(build(record, wanted)):
                return panels
            raise InputError(f"{record.path} holds nothing of these layers")

    return of


def _strength(runs: Sequence[RunSeries], wanted: Wanted) -> list[Curves]:
    return [strength_traces(runs, "epoch" if wanted.against == "epoch" else "step")]


_TIMES = ("step", "epoch", "strength")
KINDS: dict[str, Kind] = {
    "accuracy": Kind("accuracy against strength, means over seeds with 95 % intervals", _accuracy),
    "sparsity": Kind("accuracy against the share of weights that are exactly 0", _sparsity),
    **{
        name: Kind(q.axis + " on a logarithmic scale" * (name != q.word), _over_time(name), _TIMES)
        for name, q in OVER_TIME.items()
    },
    "strength": Kind("the strength over time, as schedules and Auto L2 move it", _strength, ("step", "epoch")),
    "learning-curves": Kind(
        "training and validation over epochs: the loss and another metric", lambda r, w: learning_curves(r, w.metric)
    ),
    "histogram": Kind(
        "sizes of the weights at the first, middle and last sample (preset full)",
        lambda r, w: [weight_histograms(r, w.choice)],
    ),
    "layers": Kind(
        "gradients, proportion and weights of each layer over time; of many layers by block",
        _of_one(lambda record, w: by_layer(record, w.choice)),
    ),
    "layers-map": Kind(
        "layers x steps, as a map of one --quantity",
        _of_one(lambda record, w: [over_steps(record, w.choice, w.quantity)]),
    ),
    "depth": Kind(
        "gradients, proportion and weights over the depth of the network, at --steps",
        _of_one(lambda record, w: profiles(record, w.choice, w.steps)),
    ),
    "figure-2": Kind(
        "Figure 2 of Park et al.: mean |∂L/∂w|, its logarithm and its share; of chosen layers, too",
        _several(quantities.GRADIENT.word, f"{quantities.GRADIENT.word}-closeup", quantities.PROPORTION.word),
        ("step", "epoch"),
    ),
    "figure-5": Kind(
        "Figure 5 of Park et al.: mean |∂L/∂w| on a logarithmic scale and mean |w|; of chosen layers, too",
        _several(f"{quantities.GRADIENT.word}-closeup", quantities.WEIGHT.word),
        ("step", "epoch"),
    ),
}
#: Drawn from the words of penalties alone; needs no record.
SHAPES = "penalty-shapes"
FIGURES = {**{name: kind.shows for name, kind in KINDS.items()}, SHAPES: "Ω, ∂Ω/∂w and the ball Ω = 1 of penalties"}


def panels_of(runs: Sequence[RunSeries], name: str, wanted: Wanted) -> list[Panel]:
    """Build the panels of the figure of this name.

    Args:
        runs: the records.
        name: a key of `KINDS`.
        wanted: what it is asked to show.

    Returns:
        At least one panel.

    Raises:
        InputError: an unknown figure, an axis that it cannot have, or a record that does not hold what it takes; the
            message says how to record that.
    """
    checks.one_of(name, KINDS, "figure")
    kind = KINDS[name]
    if wanted.against is not None and wanted.against not in kind.against:
        raise InputError(
            f"--against is {wanted.against!r}; "
            + (
                f"expected one of {', '.join(kind.against)}"
                if kind.against
                else f"figure {name} has an axis of its own"
            )
        )
    named = [replace(run, label=label) for run, label in zip(runs, labelled(runs), strict=True)]
    return list(kind.build(named, wanted))
