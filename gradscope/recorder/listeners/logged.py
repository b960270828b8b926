"""Record what the loop logs: scalars of the latest backward pass's step, which join its row."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradscope import checks
from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, Fields, Floats, HostRow
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.forwards import Forwards
from gradscope.recorder.meter import Meter
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.scalars import CELLS, Said, Scalars, has_graph
from gradscope.recorder.timeline import Timeline

#: Steps at which a name is logged and never recorded, before that is warned about.
MANY_LOST = 16


class Logged(Listener):
    """Listener that decides which row a logged value belongs to, and puts it there.

    Attributes:
        inexact: names whose values float32 does not hold, and what became of one.
        scalars: the places of logged tensors.
    """

    def __init__(self, forwards: Forwards, timeline: Timeline, buffer: RowBuffer) -> None:
        self._forwards, self._timeline, self._buffer = forwards, timeline, buffer
        self.inexact: dict[str, str] = {}
        self._later: dict[str, Tensor | float] = {}  # of the next step that is seen
        self._undecided: list[Said] = []
        self._forwards_before = 0  # those before the latest step
        self._forwards_counted = False  # there was one since the step before that
        self._told: set[str] = set()
        self._lost: Counter[str] = Counter()  # logged at steps that are not recorded

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Create the places of logged tensors."""
        self.scalars = Scalars(self._buffer, self._buffer.ranks.sharded)

    def fields(self) -> dict[str, Field]:
        """Return the cells of logged tensors."""
        return {"cells": CELLS}

    def detach(self) -> None:
        """Remove the hooks and settle what is undecided."""
        self._forwards.detach()
        self.decide(ends=True)

    def log(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Log scalars of the latest backward's step: of the coming row before its step, else of the last."""
        timeline = self._timeline
        if timeline.fresh_backward or timeline.step < timeline.first_step:
            self._later.update({name: self.scalars.kept(name, value) for name, value in scalars.items()})
            return
        timeline.loss_told |= "loss" in scalars
        forwards, before = self._forwards.count, self._forwards_before
        if forwards != before or (not self._forwards_counted and any(map(has_graph, scalars.values()))):
            self._undecided.append(Said(scalars, self.scalars, forwards, forwards != before))
        else:
            self._put(scalars)

    def _put(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Put scalars into the row of the latest step, if it is recorded."""
        row = self._timeline.row
        for name, value in scalars.items():
            if row is not None:
                self.scalars.put(row, name, value)
                self._told.add(name)
                continue
            self._lost[name] += 1
            if self._lost[name] == MANY_LOST and name not in self._told:
                warnings.warn(
                    f"log({name}=…) was called at {MANY_LOST} steps and at none that is recorded "
                    f"(every={str(self._timeline.cadences['rows'])!r}); log it at each step, or at those that are "
                    "recorded",
                    stacklevel=checks.users_line(),
                )

    def row_opens(self) -> None:
        """Note that the loss of this row is not known yet."""
        self._timeline.loss_told = False
        self._forwards_counted = self._forwards.count != self._forwards_before

    def row_joined(self) -> None:
        """Put what was logged for this step into its row."""
        if self._later:
            later, self._later = self._later, {}
            self._put(later)
        self._forwards_before = self._forwards.count

    def closure_again(self) -> None:
        """Discard what the closure logged for the step."""
        self._later = {}

    def step_opens(self) -> None:
        """Settle what is undecided."""
        if self._undecided:
            self.decide()

    def decide(self, ends: bool = False) -> None:
        """Settle whether undecided scalars were logged after the last step or are of this one's loss.

        What belongs to neither was logged of a batch that was skipped: it replaces nothing that the last row has.

        Args:
            ends: no step will come.
        """
        said, self._undecided = self._undecided, []
        row = self._timeline.row
        had = () if row is None or not said else (*row.values, *row.cells)
        for one in said:
            coming = one.belongs_to_the_coming(self._forwards.count)
            if coming and not ends:
                self._later.update(one.values)
            elif not one.reached:
                self._put({name: value for name, value in one.values.items() if name not in had})

    # -- the variables ----------------------------------------------------------------------------

    def variables(self, rows: FetchedRows) -> Block:
        """Compute one variable a logged name."""
        block: Block = {}
        for name, values in scalar_columns(rows.hosts, rows.home).items():
            block[name], lost = in_float32(values)
            if lost:
                self.inexact.setdefault(name, lost)
        return block

    def capture(self) -> dict[str, Any]:
        """Return what was logged and not recorded, or not exactly."""
        found: dict[str, Any] = {}
        if self._lost:
            rhythm = str(self._timeline.cadences["rows"])
            found["logged_between_rows"] = {"not_recorded": dict(self._lost), "rows": rhythm}
        if self.inexact:
            found["kept_as_float32"] = dict(self.inexact)
        return found


def scalar_columns(hosts: Sequence[HostRow], home: Fields) -> dict[str, Floats]:
    """Compute one column a logged name, [n]; NaN where it was not logged."""
    names = dict.fromkeys(name for row in hosts for name in (*row.values, *row.cells))
    columns = {name: np.full(len(hosts), np.nan) for name in names}
    for i, row in enumerate(hosts):
        for name, value in row.values.items():
            columns[name][i] = value
        for name, (field, place) in row.cells.items():
            columns[name][i] = home[field][i, place]
    return columns


def in_float32(values: Floats) -> tuple[NDArray[np.float32], str]:
    """Convert values as a record keeps them, and say what is lost: of a whole number anything, beyond the range all."""
    with np.errstate(over="ignore"):
        kept = values.astype(np.float32)
    changed = np.isfinite(values) & (kept != values) & ((values == np.floor(values)) | np.isinf(kept))
    if not changed.any():
        return kept, ""
    first = np.flatnonzero(changed)[0]
    return kept, f"{values[first]:.17g} is kept as {float(kept[first]):.17g}"
