"""Timeline: which step a training has come to, and which row a backward pass, a step or a log call belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from gradscope.recorder.cadence import Cadence
from gradscope.recorder.host_rows import HostRow
from gradscope.recorder.row_buffer import RowBuffer


class Timeline:
    """Steps and rows as the training thread knows them; written by the recorder, read by its listeners.

    Attributes:
        step: the latest attempted step, −1 before the first one.
        epoch: as the loop has told it, −1 unknown.
        first_step: the number of the first step that this recording sees.
        rows: begun so far.
        row: of the latest step, None if that is not recorded.
        open: the optimizers, by identity, that have stepped in the open row.
        fresh_backward: a backward pass has begun to reach gradients, and no step has followed.
        loss_told: the loss of the open row is known.
    """

    def __init__(self, cadences: Mapping[str, Cadence], buffer: RowBuffer) -> None:
        self.cadences, self._buffer = cadences, buffer
        self.step = self.epoch = -1
        self.first_step = self.rows = 0
        self.row: HostRow | None = None
        self.open: set[int] = set()
        self.fresh_backward = self.loss_told = False
        #: By optimizer: those that move some of the same weights, itself among them.
        self.rivals: dict[int, set[int]] = {}

    def begin_at(self, step: int) -> None:
        """Set the number of the next step, where it is not 0."""
        self.first_step, self.step = step, step - 1

    def next_is_recorded(self) -> bool:
        """Return whether the coming step has a row."""
        return self.cadences["rows"].at(self.step + 1)

    def samples(self, kind: str) -> bool:
        """Return whether this kind of quantity is recorded at the latest step, which is a recorded one."""
        return self.cadences[kind].at(self.step)

    def joins(self, optimizer: Optimizer) -> bool:
        """Return whether its step belongs to the open row: another part of the model takes the same step there.

        Not so where the other moves the same weights, or where the loss of that step is known and a backward pass has
        followed: then one is used after the other.

        Returns:
            True where it joins.
        """
        if not self.open or not self.open.isdisjoint(self.rivals[id(optimizer)]):
            return False
        return not (self.loss_told and self.fresh_backward)

    def row_to_come(self, optimizer: Optimizer) -> int | None:
        """Return the number of the row that this optimizer's next step belongs to, None if it is not recorded."""
        if self.joins(optimizer):
            return None if self.row is None else self.row.number
        return self._buffer.number if self.cadences["rows"].at(self.step + 1) else None

    def step_of(self, number: int) -> int:
        """Return the step that row ``number`` belongs to: the row to come, or the open one."""
        return self.step + (number == self._buffer.number)
