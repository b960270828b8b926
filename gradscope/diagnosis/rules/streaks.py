"""Patience of a rule: which layers have shown a symptom in so many samples one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.rules.finding import Array, Symptom


class Streaks:
    """Lengths of one symptom over the blocks of a run. A row that says nothing (NaN) neither counts nor breaks it."""

    def __init__(self, layers: int) -> None:
        self.needed = 1
        self._length = np.zeros(layers, dtype=np.int64)
        self._since = np.zeros(layers, dtype=np.int64)
        self._told = np.zeros(layers, dtype=bool)
        self._absent = np.zeros(layers, dtype=np.int64)  # samples since it showed last
        self._gone = np.full(layers, -1, dtype=np.int64)  # the step of the first of them

    def advance(
        self, symptom: Symptom, steps: NDArray[np.int64], warm: NDArray[np.bool_], patience: int
    ) -> list[tuple[int, int, list[int]]]:
        """Take the rows of a block. ``warm``: [N], the rows that count at all.

        Returns:
            Row, first step and layers of what has now lasted for ``patience`` samples, oldest first.
        """
        self.needed = needed = 1 if symptom.at_once else patience
        shows = symptom.shows if warm.all() or symptom.at_once else np.where(warm[:, None], symptom.shows, np.nan)
        with np.errstate(invalid="ignore"):
            there, clear = (shows == 1).any(0), (shows == 0).any(0)
        self._length[clear & ~there] = 0
        found: dict[tuple[int, int], list[int]] = {}
        for column in np.flatnonzero(there & ~self._told):
            hit = self._follow(int(column), shows[:, column], steps, needed)
            if hit is not None:
                found.setdefault(hit, []).append(int(column))
        for column in np.flatnonzero(self._told & (there | clear)):
            self._follow_end(int(column), shows[:, column], steps)
        return [(row, since, layers) for (row, since), layers in sorted(found.items())]

    def over_since(self, columns: Sequence[int]) -> int | None:
        """Return the step since which a symptom that was told has shown in none of these columns.

        It has to be absent for as long as it takes to tell it.

        Returns:
            None while it is there, and for what is told at once.
        """
        at = list(columns)
        gone = self.needed > 1 and bool((self._absent[at] >= self.needed).all())
        return int(self._gone[at].max()) if gone else None

    def _follow_end(self, column: int, shows: Array, steps: NDArray[np.int64]) -> None:
        at = np.flatnonzero(~np.isnan(shows))
        there = np.flatnonzero(shows[at] == 1)
        after = at if not len(there) else at[there[-1] + 1 :]
        if len(there):
            self._absent[column] = 0
        if len(after) and not self._absent[column]:
            self._gone[column] = steps[after[0]]
        self._absent[column] += len(after)

    def _follow(self, column: int, shows: Array, steps: NDArray[np.int64], needed: int) -> tuple[int, int] | None:
        at = np.flatnonzero(~np.isnan(shows))
        there, place = shows[at] == 1, np.arange(len(at))
        broken = np.maximum.accumulate(np.where(there, -1, place))
        before = self._length[column]
        length = np.where(there, np.where(broken >= 0, place - broken, before + place + 1), 0)

        def since(i: int) -> int:
            """Return the first step of the streak that sample i belongs to."""
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
