"""Group layers by the block of the model that they are part of, as far as their dotted names tell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def blocks(layers: Sequence[Sequence[str]], most: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Group layers by block.

    Args:
        layers: the parts of each module's dotted name, in the order of the model.
        most: labels at most; where there are more blocks, neighbours share one: ``layers.0–5``.

    Returns:
        The labels, and for each layer the place of its own among them.
    """
    names = [_block(parts) for parts in layers]
    own = list(dict.fromkeys(names))
    groups = [[name] for name in own]
    for size in range(2, len(own) + 1):
        if len(groups) <= most:
            break
        groups = [part for run in _siblings(own) for part in _cut(run, size)]
    if len(groups) > most:  # too many of different kinds
        groups = _cut(own, -(-len(own) // most))
    place = {name: i for i, group in enumerate(groups) for name in group}
    return tuple(map(_label, groups)), tuple(place[name] for name in names)


def _block(parts: Sequence[str]) -> str:
    """Return the name up to the first number (``blocks.3`` of ``blocks.3.attention.q``), else the first two parts."""
    end = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 2)
    return ".".join(parts[:end])


def _siblings(names: Sequence[str]) -> list[list[str]]:
    """Group neighbours that differ in their number alone."""
    stems = [name.rpartition(".")[0] if name.rpartition(".")[2].isdigit() else f"{name} " for name in names]
    return [[name for _, name in run] for _, run in groupby(zip(stems, names, strict=True), key=lambda pair: pair[0])]


def _cut(names: list[str], size: int) -> list[list[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def _label(group: Sequence[str]) -> str:
    first, last = group[0], group[-1]
    if first == last:
        return first or "(the model)"
    stem, _, number = last.rpartition(".")
    return f"{first}–{number}" if number.isdigit() and first.rpartition(".")[0] == stem else f"{first} … {last}"
