"""Record what could not be read or measured, and why; the training goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gradscope.recorder.listener import Guarded, Listener
from gradscope.recorder.meter import Meter
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline

#: Steps that could not be measured which a record names one by one.
MOST_TROUBLES = 8


class Unread(Listener):
    """Listener that collects errors of measuring, by step, and parameters without numbers."""

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[Tensor],
        timeline: Timeline,
        buffer: RowBuffer,
        warn: Callable[[str], None],
    ) -> None:
        self._names, self._weights, self._warn = names, weights, warn
        self._timeline, self._buffer = timeline, buffer
        self._meters: Sequence[Meter] = ()
        self._trouble: dict[str, str] = {}
        self._warned = False

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Keep the meters."""
        self._meters = meters

    def note(self, what: str, error: Exception) -> str:
        """Name something that is not known; return the error as one line."""
        line = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self._trouble[what] = line
        return line

    def guarded(self, methods: Sequence[Callable[..., None]]) -> Guarded:
        """Make one call of methods of a meter and a row's number; what ends in an error is not known, and named."""

        def call(meter: Meter, number: int, *arguments: Any) -> None:
            for method in methods:
                try:
                    method(meter, number, *arguments)
                except Exception as error:  # the training goes on
                    self.failed(meter, number, error)

        return call

    def failed(self, meter: Meter, number: int, error: Exception) -> None:
        """Set a meter's part of a row to NaN and name it: it was not measured."""
        ring = self._buffer.rings[meter.device]
        for name in self._buffer.layout.of_meter[meter.number]:
            ring.view(name, number).fill_(float("nan"))
        many = len(self._trouble) >= MOST_TROUBLES
        step = self._timeline.step_of(number)
        line = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if not self._warned:
            self._warned = True
            self._warn(f"step {step} was not measured, {line}; the training goes on")
        if not many:
            self._trouble[f"step {step}"] = line

    def capture(self) -> dict[str, Any]:
        """Return what was not read, and why."""
        found = {i: "on the device meta, without numbers" for i, w in enumerate(self._weights) if w.is_meta}
        for meter in self._meters:
            found |= meter.unread()
        unread = {self._names[i]: found[i] for i in sorted(found)} | self._trouble
        return {"not_read": unread} if unread else {}
