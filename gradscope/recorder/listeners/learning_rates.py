"""Record the learning rate of each parameter group, and which parameters have left the groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gradscope.optimizers.parameter_groups import Groups, number
from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, HostRow
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.gradients import Gradients
from gradscope.recorder.listeners.updates import Updates
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline


class LearningRates(Listener):
    """Listener that reads the ``groups`` when a row begins; a rate in a tensor on the device stays there."""

    def __init__(
        self, groups: Groups, timeline: Timeline, buffer: RowBuffer, gradients: Gradients, updates: Updates | None
    ) -> None:
        self._groups, self._left = groups, groups.left
        self._timeline, self._buffer, self._gradients, self._updates = timeline, buffer, gradients, updates

    def fields(self) -> dict[str, Field]:
        """Return one rate for each group."""
        return {"rates": Field((sum(self._groups.counts),), "mean")}

    def row_begins(self, row: HostRow) -> None:
        """Write the rates as they are."""
        home = self._buffer.home
        on_host = home.device.type == "cpu"
        groups = self._groups.now()
        if self._groups.left is not self._left:
            self._members_changed(self._timeline.step)
        for index, group in enumerate(groups):
            lr = None if group is None else group.get("lr")
            if isinstance(lr, Tensor) and lr.numel() == 1 and lr.is_cpu == on_host:
                home.view("rates", row.number)[index].copy_(lr.reshape(()))  # `capturable`: it stays on the device
                row.rates.append(None)
            else:
                row.rates.append(number(lr))

    def _members_changed(self, step: int) -> None:
        """Note parameters that have left the optimizers' groups, or are back; of absent ones nothing is known."""
        self._left = self._groups.left
        self._gradients.without(self._left, step)
        if self._updates is not None:
            self._updates.without(self._left)

    def variables(self, rows: FetchedRows) -> Block:
        """Compute the learning rates, [N, G]."""
        rates = [_read(row.rates, on_device) for row, on_device in zip(rows.hosts, rows.home["rates"], strict=True)]
        return {"learning_rate": np.array(rates, dtype=np.float32).reshape(len(rates), -1)}

    def capture(self) -> dict[str, Any]:
        """Return how many parameters joined the groups and are not recorded."""
        if not self._groups.joined:
            return {}
        return {"joined_later": f"{self._groups.joined} parameters that joined the optimizer's groups: not recorded"}


def _read(rates: Sequence[float | None], on_device: Sequence[Any]) -> list[float]:
    return [float(on) if off is None else off for off, on in zip(rates, on_device, strict=True)]
