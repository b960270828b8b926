"""Thin rows as they come, in bounded memory, so that no spike is lost.

Rows fall into windows of equal length. When there are too many windows, neighbours are joined and the length doubles:
so a table of any length ends in between ``least`` and ``2·least`` windows, however the rows were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]
Join = Callable[[Values, Values], Values]

#: What is kept of a window, and how two neighbours are joined.
JOIN: dict[str, Join] = {"low": np.fmin, "high": np.fmax, "sum": np.add, "count": np.add}
_EMPTY = {"low": np.nan, "high": np.nan, "sum": 0.0, "count": 0.0}


@dataclass(frozen=True)
class Envelope:
    """Extremes and mean of every window; NaN where a window holds nothing.

    Attributes:
        low: smallest value, [W, K].
        high: largest value, [W, K].
        mean: mean, [W, K].
    """

    low: Values
    high: Values
    mean: Values

    def of(self, columns: NDArray[np.bool_]) -> Envelope:
        """Select columns."""
        return Envelope(self.low[:, columns], self.high[:, columns], self.mean[:, columns])


@dataclass
class PageWindows:
    """Windows of one table of rows: which row belongs where, and the columns thinned so far.

    Attributes:
        least: windows that a long run has at least; at most it has twice as many.
        size: rows in a window.
        rows: rows so far.
    """

    least: int
    size: int = 1  # rows in a window
    rows: int = 0
    _kept: dict[tuple[str, str], Values] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Windows in use."""
        return -(-self.rows // self.size)

    def add(self, envelopes: dict[str, Values], sums: dict[str, Values]) -> None:
        """Add a block of rows, [N, K] a name; ``sums`` are added up over a window, a NaN in them counts 0."""
        n = len(next(iter(envelopes.values())))
        if not n:
            return
        while self.rows + n > 2 * self.least * self.size:
            self._double()
        index = (self.rows + np.arange(n)) // self.size
        edges = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
        for name, values in envelopes.items():
            v = np.where(np.isinf(values), np.nan, values)
            self._put(name, "low", index[edges], np.fmin.reduceat(v, edges, axis=0))
            self._put(name, "high", index[edges], np.fmax.reduceat(v, edges, axis=0))
            self._add(name, v, index[edges], edges)
        for name, values in sums.items():
            self._add(name, np.where(np.isinf(values), np.nan, values), index[edges], edges)
        self.rows += n

    def envelope(self, name: str) -> Envelope:
        """Return extremes and mean of the rows of this name."""
        low, high, count = (self._kept[name, kind][: self.count] for kind in ("low", "high", "count"))
        mean = np.divide(self.sum(name), count, out=np.full(count.shape, np.nan), where=count > 0)
        # A mean of float32 may round beyond its own extremes.
        return Envelope(low, high, np.clip(mean, low, high).astype(low.dtype))

    def sum(self, name: str) -> Values:
        """Return the sums a window, [W, K]."""
        return self._kept[name, "sum"][: self.count]

    def __contains__(self, name: object) -> bool:
        return any(kept == name for kept, _ in self._kept)

    def _add(self, name: str, values: Values, index: NDArray[np.int64], edges: NDArray[np.int64]) -> None:
        """Add up what is known of each window, and count the values."""
        known = np.isfinite(values)
        self._put(name, "sum", index, np.add.reduceat(np.where(known, values, 0.0), edges, axis=0, dtype=np.float64))
        self._put(name, "count", index, np.add.reduceat(known, edges, axis=0, dtype=np.float32))

    def _put(self, name: str, kind: str, index: NDArray[np.int64], values: Values) -> None:
        """Join the windows of a block to what is there; only the first of them can have begun before."""
        key = name, kind
        if key not in self._kept:
            self._kept[key] = np.full((2 * self.least, values.shape[1]), _EMPTY[kind], dtype=values.dtype)
        table = self._kept[key]
        values[0] = JOIN[kind](table[index[0]], values[0])
        table[index] = values

    def _double(self) -> None:
        self.size *= 2
        for (_, kind), table in self._kept.items():
            joined = JOIN[kind](table[0::2], table[1::2])
            table[: self.least] = joined
            table[self.least :] = _EMPTY[kind]
