"""Patience: which layers have shown a symptom in so many samples one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.rules.finding import Array, Symptom


class Streaks:
    """Follows one symptom over the blocks of a run. A row that says nothing (NaN) neither counts nor breaks it."""

    def __init__(self, layers: int) -> None:
        self._length = np.zeros(layers, dtype=np.int64)
        self._since = np.zeros(layers, dtype=np.int64)
        self._told = np.zeros(layers, dtype=bool)

    def advance(
        self, symptom: Symptom, steps: NDArray[np.int64], warm: NDArray[np.bool_], patience: int
    ) -> list[tuple[int, int, list[int]]]:
        """Row, first step and layers of what has now lasted for ``patience`` samples, oldest first.

        ``warm``: [N], the rows that count at all.
        """
        needed = 1 if symptom.at_once else patience
        shows = symptom.shows if warm.all() or symptom.at_once else np.where(warm[:, None], symptom.shows, np.nan)
        with np.errstate(invalid="ignore"):
            there, clear = (shows == 1).any(0), (shows == 0).any(0)
        self._length[clear & ~there] = 0
        found: dict[tuple[int, int], list[int]] = {}
        for column in np.flatnonzero(there & ~self._told):
            hit = self._follow(int(column), shows[:, column], steps, needed)
            if hit is not None:
                found.setdefault(hit, []).append(int(column))
        return [(row, since, layers) for (row, since), layers in sorted(found.items())]

    def _follow(self, column: int, shows: Array, steps: NDArray[np.int64], needed: int) -> tuple[int, int] | None:
        at = np.flatnonzero(~np.isnan(shows))
        there, place = shows[at] == 1, np.arange(len(at))
        broken = np.maximum.accumulate(np.where(there, -1, place))
        before = self._length[column]
        length = np.where(there, np.where(broken >= 0, place - broken, before + place + 1), 0)

        def since(i: int) -> int:
            """The first step of the streak that sample i belongs to."""
            first = int(broken[i]) + 1
            return int(self._since[column]) if first == 0 and before else int(steps[at[first]])

        long = np.flatnonzero(length >= needed)
        hit = None
        if len(long):
            self._told[column] = True
            hit = (int(at[long[0]]), since(int(long[0])))
        if length[-1]:
            self._since[column] = since(len(at) - 1)
        self._length[column] = length[-1]
        return hit
