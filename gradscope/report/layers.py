"""Figures by layer of one run: lines over time, layers × steps, profiles over depth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope import quantities
from gradscope.quantities import GRADIENT, PENALTY, PROPORTION, WEIGHT, Quantity
from gradscope.report.curves import Array, Curve, Curves, Grid
from gradscope.report.page.blocks import blocks
from gradscope.report.page.windows import PageWindows
from gradscope.store.record import Record
from gradscope.types import InputError

#: More layers than this are drawn by block; windows that a line and a map have at most, and the steps of a profile.
LINES, POINTS, WINDOWS, STEPS = 12, 64, 256, 4
SHOWN = (GRADIENT, PENALTY, PROPORTION, WEIGHT)


@dataclass(frozen=True)
class LayerChoice:
    """Choice of layers: those of a name or a regular expression, of a parameter group; else those the verdict is about.

    Attributes:
        parameter: a name, or a regular expression that is searched in names.
        group: index of a parameter group.
    """

    parameter: str | None = None
    group: int | None = None

    @property
    def anything(self) -> bool:
        """Whether something was chosen."""
        return self.parameter is not None or self.group is not None

    def of(self, record: Record) -> NDArray[np.int64]:
        """Return the columns of these layers in the record; raise `InputError` where there are none."""
        names, mask = record.info.parameters, record.info.watched
        if self.anything:
            mask = np.ones(len(names), dtype=bool)
        if self.parameter in names:
            mask = np.array([name == self.parameter for name in names])
        elif self.parameter is not None:
            mask = self._matching(names)
        if self.group is not None:
            mask = mask & (record.info.group == self.group)
        if not mask.any():
            which = " and ".join(
                [f"parameter {self.parameter!r}"] * (self.parameter is not None)
                + [f"group {self.group}"] * (self.group is not None)
            )
            raise InputError(f"{record.path} has no {which}; expected one of {', '.join(names)}")
        return np.flatnonzero(mask)

    def _matching(self, names: Sequence[str]) -> NDArray[np.bool_]:
        assert self.parameter is not None
        try:
            pattern = re.compile(self.parameter)
        except re.error as error:
            raise InputError(f"--parameter {self.parameter!r} is no regular expression: {error}") from None
        return np.array([pattern.search(name) is not None for name in names])

    def __str__(self) -> str:
        words = [] if self.parameter is None else [self.parameter]
        return ", ".join([*words, *([] if self.group is None else [f"group {self.group}"])])


#: The layers that the verdict is about.
ALL = LayerChoice()


def by_layer(record: Record, choice: LayerChoice) -> list[Curves]:
    """Draw every size of each layer over time; of more than twelve, of each block: means over its entries."""
    columns = choice.of(record)
    labels, members = _lines([record.info.parameters[i] for i in columns])
    windows = PageWindows(POINTS // 2, max(1, -(-record.rows // POINTS)))
    names = tuple(q.name for q in SHOWN)
    for block in record.blocks(names):
        sizes = dict(_of_groups(block, record.info.numel, [columns[part] for part in members]))
        windows.add({"step": np.asarray(block["step"], dtype=np.float64)[:, None], **sizes}, {})
    steps = windows.envelope("step").mean[:, 0].astype(np.float64)
    panels: list[Curves] = []
    for q in SHOWN:
        if q.word not in windows:
            continue
        mean = windows.envelope(q.word).mean.astype(np.float64)
        if not np.isfinite(mean).any():
            continue
        shades = np.linspace(0, 1, len(labels)) if len(labels) > 1 else np.zeros(1)
        curves = tuple(Curve(n, steps, mean[:, k], shade=float(shades[k])) for k, n in enumerate(labels))
        keyed = "never" if panels else "outside"
        panels.append(Curves(q.title, "optimizer step", q.axis, curves, log_y=q.log, keyed=keyed, notes=_note(members)))  # type: ignore[arg-type]
    return panels


def _lines(names: Sequence[str]) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Return labels of lines, and the layers that each is made of."""
    if len(names) <= LINES:
        return tuple(names), [np.array([i]) for i in range(len(names))]
    labels, places = blocks([name.split(".")[:-1] for name in names], LINES)
    return labels, [np.flatnonzero(np.array(places) == i) for i in range(len(labels))]


def _note(members: Sequence[NDArray[np.int64]]) -> tuple[str, ...]:
    layers = sum(map(len, members))
    if layers == len(members):
        return ()
    return (f"{layers} layers as {len(members)} blocks: a line is the mean over a block's entries",)


def _of_groups(
    block: dict[str, NDArray[np.generic]], numel: Array, groups: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[str, Array]]:
    """Yield the mean over the entries of each group of columns, [N, G]; the proportion is that of sums."""

    def sums(q: Quantity) -> tuple[Array, Array]:
        values = np.asarray(block[q.name], dtype=np.float64)
        known = np.isfinite(values)
        total = np.stack([(np.where(known[:, g], values[:, g], 0) * numel[g]).sum(1) for g in groups], axis=1)
        return total, np.stack([(known[:, g] * numel[g]).sum(1) for g in groups], axis=1)

    def ratio(above: Array, below: Array) -> Array:
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    found = {q.word: sums(q) for q in (GRADIENT, PENALTY, WEIGHT) if q.name in block}
    for word, (total, count) in found.items():
        yield word, ratio(total, count)
    if GRADIENT.word in found and PENALTY.word in found:
        g, r = found[GRADIENT.word][0], found[PENALTY.word][0]
        yield PROPORTION.word, ratio(g, g + r)


def over_steps(record: Record, choice: LayerChoice, quantity: str) -> Grid:
    """Draw layers × steps: one quantity, relative to each layer's start where it spans decades."""
    q, columns = _quantity(record, quantity), choice.of(record)
    windows = PageWindows(WINDOWS // 2, max(1, -(-record.rows // WINDOWS)))
    for block in record.blocks((q.name,)):
        at = np.asarray(block["step"], dtype=np.float64)[:, None]
        windows.add({"step": at, "y": np.asarray(block[q.name], dtype=np.float64)[:, columns]}, {})
    y, steps = windows.envelope("y").mean.T.astype(np.float64), windows.envelope("step")
    edges = np.append(steps.low[:, 0], steps.high[-1, 0] + 1).astype(np.float64)
    label = q.axis
    if q.log:
        first = np.array([next((v for v in row if v > 0), np.nan) for row in y])
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(y > 0, np.log10(y / first[:, None]), np.nan)
        label = f"log₁₀ of {q.axis} against its start"
    names = tuple(record.info.parameters[i] for i in columns)
    return Grid(
        f"{q.title} by layer", "optimizer step", label, edges, names, y, None if q.log else (0.0, 1.0),
        notes=("grey: exactly 0, or not recorded",) if np.isnan(y).any() else (),
    )  # fmt: skip


def _quantity(record: Record, word: str) -> Quantity:
    found = quantities.BY_LAYER[word]
    if found.name not in record:
        raise InputError(f"{record.path} holds no {found.name}: {found.missing or 'record with a larger preset'}")
    return found


def profiles(record: Record, choice: LayerChoice, steps: Sequence[int] = ()) -> list[Curves]:
    """Draw every size over the depth of the network, at these steps, or at some from the first to the last.

    Of many layers the weight matrices alone: biases and gains have sizes of their own, and a line through both zigzags.

    Args:
        record: the run.
        choice: its layers.
        steps: the nearest recorded ones are drawn.

    Returns:
        A panel for each size.
    """
    columns, rows = choice.of(record), _rows(record, steps)
    notes: tuple[str, ...] = ()
    matrices = columns[record.info.grids[columns]] if len(record.info.grids) else columns
    if not choice.anything and len(columns) > LINES and 1 < len(matrices) < len(columns):
        notes = (f"{len(matrices)} weight matrices of {len(columns)} layers; --parameter chooses others",)
        columns = matrices
    names = tuple(record.info.parameters[i] for i in columns)
    depth, at = np.arange(len(columns), dtype=np.float64), record.steps
    panels: list[Curves] = []
    for q in SHOWN:
        if q.name not in record:
            continue
        values = np.stack([record.column(q.name, row)[columns] for row in rows]).astype(np.float64)
        if not np.isfinite(values).any():
            continue
        curves = tuple(Curve(f"step {at[row]}", depth, y) for row, y in zip(rows, values, strict=True))
        panels.append(
            Curves(q.title, "layer, from the first to the last", q.axis, curves, log_y=q.log, points=len(names) <= 40,
                   keyed="never" if panels else "outside", names=names, notes=notes)
        )  # fmt: skip
    return panels


def _rows(record: Record, steps: Sequence[int]) -> list[int]:
    """Return the rows of these steps, each the nearest one that was recorded."""
    at = record.steps
    wanted = list(steps) or np.linspace(at[0], at[-1], STEPS).tolist()
    beyond = [step for step in steps if not at[0] <= step <= at[-1]]
    if beyond:
        raise InputError(f"--steps has {beyond[0]}; {record.path} holds steps {at[0]} to {at[-1]}")
    return list(dict.fromkeys(int(np.argmin(np.abs(at - step))) for step in wanted))
