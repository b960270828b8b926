"""Layers and blocks of a model that the keys of a live view choose from, and the lines of the one that was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.quantities import BY_LAYER, Quantity
from gradscope.report.live.frame import Frame, Line
from gradscope.report.page.page_values import PageQuantity, RunPage


@dataclass(frozen=True)
class Chosen:
    """Layer or block in front.

    Attributes:
        title: which one it is, of how many.
        lines: its series.
    """

    title: str
    lines: tuple[Line, ...]


def ordered(shown: Frame) -> list[str]:
    """List the layers as keys come to them: what verdict and rules name, then what faded most, then the model's order.

    Args:
        shown: the look.

    Returns:
        Names of all layers that the look holds.
    """
    run = shown.run
    found = run.diagnosis
    named = [*found.layers, *(name for finding in found.findings for name in finding.layers)]
    of_modules = (p for name in named for p in run.parameters if p == name or p.startswith(f"{name}."))
    first = [*of_modules, *(one.name for one in shown.worst), *run.parameters]
    return [name for name in dict.fromkeys(first) if name in set(run.parameters)]


def chosen(shown: Frame, place: int, by_block: bool, layers: list[str] | None = None) -> Chosen | None:
    """Return the layer, or the block, at a place; the places go round.

    Args:
        shown: the look.
        place: 1 for the first; 0 for none.
        by_block: choose among the blocks of the model, in its order.
        layers: their order when the choice began, which stays while it lasts; None for that of this look.

    Returns:
        The chosen one; None for none.
    """
    run = shown.run
    labels, of = run.blocks
    names = list(labels) if by_block else list(dict.fromkeys([*(layers or ()), *ordered(shown)]))
    names = names if by_block else [name for name in names if name in set(run.parameters)]
    place %= len(names) + 1
    if place == 0:
        return None
    name = names[place - 1]
    members = {name}
    if by_block:
        members = {one for one, block in zip(run.parameters, of, strict=True) if block == place - 1}
    more = f", {len(members)} tensor{'s' * (len(members) > 1)}" if by_block else ""
    missing = run.layers_total - len(run.parameters)
    left_out = f" ({missing:,} more are not in this view)" if missing else ""
    kind = "block" if by_block else "layer"
    lines = [_line(run, q, members) for q in BY_LAYER.values() if q.word in run.quantities]
    return Chosen(
        f"{kind} {place} of {len(names)}: {name}{more}{left_out}", tuple(line for line in lines if line is not None)
    )


def _line(run: RunPage, q: Quantity, members: set[str]) -> Line | None:
    """Return the mean over the members, weighed as on the page; None where nothing of it is known of them."""
    quantity = run.quantities[q.word]
    columns = np.array([name in members for name in quantity.names], dtype=bool)
    if not columns.any():
        return None
    values = _mean(quantity, columns, run)
    known = values[np.isfinite(values)]
    return Line(q.symbol or q.word, tuple(values.tolist()), float(known[-1]), q.log) if len(known) else None


def _mean(quantity: PageQuantity, columns: NDArray[np.bool_], run: RunPage) -> NDArray[np.float64]:
    values = quantity.envelope.mean[:, columns].astype(np.float64)
    entries = dict(zip(run.parameters, run.numel, strict=True))
    weight = (
        np.broadcast_to(
            [entries[name] for name, here in zip(quantity.names, columns, strict=True) if here], values.shape
        )
        if quantity.weight is None
        else quantity.weight[:, columns]
    )
    weight = np.where(np.isfinite(values), weight, 0.0)
    total = weight.sum(1)
    summed = (np.nan_to_num(values) * weight).sum(1)
    found: NDArray[np.float64] = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
    return found
