"""Rows that a rule looks at: recorded columns and those that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.rules.derived import Rows
from gradscope.diagnosis.rules.finding import Array


class Columns:
    """N rows of columns by name.

    Attributes:
        number: of each row, counted from 0 at the start of the record, [N].
    """

    def __init__(self, rows: Rows, number: NDArray[np.int64]) -> None:
        self._rows = rows
        self.number = number

    def __len__(self) -> int:
        return len(self.number)

    def get(self, name: str) -> Array | None:
        """Return the column, as float64; None where no row holds it."""
        return np.asarray(self._rows[name], dtype=np.float64) if name in self._rows else None

    def series(self, name: str) -> Array:
        """Return a column along the rows alone, [N]; NaN where no row holds it."""
        found = self.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def like(self, name: str, other: Array) -> Array:
        """Return a column of the same shape as another one; NaN where no row holds it."""
        found = self.get(name)
        return np.full(other.shape, np.nan) if found is None else found

    @property
    def stepped(self) -> NDArray[np.bool_]:
        """Rows whose step was not skipped (by a GradScaler), [N, 1]."""
        skipped = np.nan_to_num(self.series("skipped")) > 0
        return np.asarray(~skipped[:, None])

    @property
    def progress(self) -> Array:
        """Loss now over that of the start (medians of 16), [N, 1]; NaN without a positive loss to begin with."""
        start = self.series("initial_loss")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(start > 0, self.series("loss_level") / start, np.nan)[:, None]

    def crushed(self, like: Array) -> NDArray[np.bool_]:
        """Return which tensors have lost a third of their norm, [N, P]: what is small there is the penalty's doing."""
        return np.asarray(self.like("weight_kept", like) < 2 / 3)


def shown(condition: NDArray[Any], usable: NDArray[Any]) -> Array:
    """Return 1 where a symptom is there, 0 where it is not, NaN where the row says nothing."""
    condition, usable = np.broadcast_arrays(condition, usable)
    return np.where(usable, condition.astype(np.float64), np.nan)
