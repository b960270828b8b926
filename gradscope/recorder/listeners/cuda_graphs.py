"""Record steps that CUDA graphs repeat: what a capture writes to the fixed row of the rings, every replay repeats.

Hooks run while a graph is captured and at no replay, so while anything is recorded on a device, the methods of
`torch.cuda.CUDAGraph` tell the listeners what they are about to do, and then do it. The host's part of a row is told
once and kept as `Captured`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope import checks
from gradscope.recorder.captured import Captured
from gradscope.recorder.host_rows import HostRow
from gradscope.recorder.listener import Listener, Steps
from gradscope.recorder.listeners.activations import Activations
from gradscope.recorder.listeners.gradients import Gradients
from gradscope.recorder.listeners.logged import Logged
from gradscope.recorder.listeners.updates import Updates
from gradscope.recorder.meter import Meter
from gradscope.recorder.ring import FIXED
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline
from gradscope.torch_utils.patching import MethodPatch

NOT_IN_GRAPHS = (
    "replays of a CUDA graph are not recorded that holds several steps, or was captured without a recorded step before "
    "it, or before the penalties changed"
)
IN_GRAPHS = "replays repeat the strengths and learning rates of their capture, but for rates kept in tensors"


class CudaGraphs(Listener):
    """Listener of captures and replays. Captures do not nest, and no replay happens inside one."""

    def __init__(
        self,
        timeline: Timeline,
        buffer: RowBuffer,
        steps: Steps,
        gradients: Gradients,
        logged: Logged,
        updates: Updates | None,
        activations: Activations | None,
    ) -> None:
        self._timeline, self._buffer, self._steps = timeline, buffer, steps
        self._gradients, self._logged, self._updates, self._activations = gradients, logged, updates, activations
        self._recorded = self._not_recorded = False  # what became of steps in graphs
        self._capture: Captured | None = None  # of the graph that is being captured
        self._graphs: WeakKeyDictionary[Any, Captured] = WeakKeyDictionary()

    def lay_out(self, meters: Any) -> None:
        """Forget the graphs, which measure what is no longer read."""
        for captured in self._graphs.values():  # they measure what is no more read
            captured.usable = False
            if captured.optimizers:
                self._not_in_graphs()
        self._graphs.clear()

    def attach(self) -> None:
        """Observe graphs where a device is CUDA."""
        if self._buffer.on_cuda:
            GRAPHS.add(self)

    def detach(self) -> None:
        """Stop observing."""
        GRAPHS.remove(self)
        self._capture, self._buffer.paused = None, False

    def capture(self) -> dict[str, Any]:
        """Return what replays do, and which were not recorded."""
        if not self._recorded:
            return {}
        return {"cuda_graphs": NOT_IN_GRAPHS if self._not_recorded else IN_GRAPHS}

    # -- what the recorder asks -------------------------------------------------------------------

    def capturing(self) -> bool:
        """Return whether what runs now is being captured. Asked where there is a CUDA device."""
        return torch.cuda.is_current_stream_capturing()

    def usable(self) -> Captured | None:
        """Return what is being captured, if its replays can be recorded."""
        return self._capture if self._capture is not None and self._capture.usable else None

    def pass_captured(self) -> None:
        """Measure a captured backward pass into the fixed row."""
        if (captured := self.usable()) is None:
            self._cannot_capture()
            return
        for meter in self._gradients.meters:
            if meter.fired:
                meter.after_backward(FIXED)
                captured.passes[meter.number] = meter

    def row_of(self, optimizer: Optimizer) -> HostRow | None:
        """Return the fixed row, for a step that is captured; None where its replays cannot be recorded."""
        captured = self.usable()
        if captured is None or id(optimizer) in captured.optimizers:
            self._cannot_capture()
            return None
        if not captured.optimizers:
            self._steps.events.row_begins(captured.row)
        captured.optimizers[id(optimizer)] = optimizer
        return captured.row

    def log(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Log scalars that every replay logs again."""
        if (captured := self.usable()) is not None:
            for name, value in scalars.items():
                self._logged.scalars.put(captured.row, name, value)

    def _cannot_capture(self) -> None:
        if self._capture is not None:
            self._capture.usable = False
        self._not_in_graphs()

    def _not_in_graphs(self) -> None:
        if not self._not_recorded:
            self._recorded = self._not_recorded = True
            warnings.warn(f"{NOT_IN_GRAPHS}; train a step or more before a capture", stacklevel=checks.users_line())

    # -- what a graph tells -----------------------------------------------------------------------

    def capture_begins(self) -> None:
        """Write the fixed row from now on: the next operations on this thread's stream are captured."""
        if self._buffer.stopped:
            return
        # First steps send tables from the host and compile kernels, which no replay could repeat.
        updates = None if self._updates is None else self._updates.of
        holds = (self._buffer.rings, self._buffer.extra, self._gradients.meters, updates, self._activations)
        sampling = self._activations is not None and self._activations.sampling
        self._capture = Captured(holds, usable=self._timeline.rows > 0, sampling=sampling)
        self._buffer.paused = True
        self._buffer.wait()  # from now on the flusher leaves the device alone
        if self._activations is not None:
            self._activations.sampling = self._activations.sampled

    def capture_ends(self, graph: Any) -> None:
        """Keep what was captured into this graph; None: the capture came to nothing."""
        captured, self._capture, self._buffer.paused = self._capture, None, False
        if captured is None:
            return
        if self._activations is not None:
            self._activations.sampling = captured.sampling
            self._activations.clears |= self._activations.sampled
        for meter in (*captured.passes.values(), *self._stepped(captured)):
            meter.stepped()
            self._timeline.fresh_backward = False
        if graph is None:
            return
        hold(graph, self, captured)  # whatever it holds, the activation hooks may be in it
        self._graphs.pop(graph, None)
        if captured.usable and (captured.passes or captured.optimizers):
            self._recorded = True
            self._graphs[graph] = captured

    def before_replay(self, graph: Any) -> None:
        """Begin a row for a graph that is about to be launched, if it holds a step."""
        captured = self._graphs.get(graph)
        if captured is None or self._buffer.stopped:
            return
        timeline = self._timeline
        captured.begins = bool(captured.optimizers) and (
            not timeline.open or not timeline.open.isdisjoint(captured.optimizers)
        )
        if captured.begins:
            self._logged.decide()
            self._steps.begin_row(captured)
            self._logged.row_joined()
        for optimizer in captured.optimizers.values():
            self._steps.events.step_seen(optimizer)
        if captured.usable:
            timeline.open |= captured.optimizers.keys()
            timeline.fresh_backward &= not captured.optimizers

    def after_replay(self, graph: Any) -> None:
        """Copy the fixed row into that of this step, or of the step to come: the graph has been launched."""
        captured = self._graphs.get(graph)
        if captured is None or self._buffer.stopped:
            return
        if captured.optimizers and self._timeline.row is not None:
            self._keep_step(captured, self._timeline.row)
        for meter in captured.passes.values():
            if id(meter.optimizer) not in captured.optimizers:
                self._timeline.fresh_backward = True
                if (number := self._timeline.row_to_come(meter.optimizer)) is not None:
                    self._buffer.rings[meter.device].keep(number, self._buffer.layout.of_meter[meter.number])
                    meter.after_replay(number)
        if captured.begins and self._activations is not None:
            self._activations.row_begun()
        if captured.row.cells:
            self._steps.log(self._logged.scalars.repeated(captured.row.cells))

    def _keep_step(self, captured: Captured, row: HostRow) -> None:
        row.taken |= captured.row.taken
        stepped, layout = self._stepped(captured), self._buffer.layout
        names = [name for meter in stepped for name in layout.of_meter[meter.number]]
        if captured.begins:
            names += [name for name in layout.common if name not in self._logged.fields()]
        for ring in self._buffer.rings.values():
            ring.keep(row.number, names)
        if self._updates is not None and row.updates:
            for meter in stepped:
                self._updates.of[meter.number].keep()

    def _stepped(self, captured: Captured) -> list[Meter]:
        return [meter for identity in captured.optimizers for meter in self._gradients.of[identity]]


def hold(graph: Any, listener: CudaGraphs, captured: Captured) -> None:
    """Keep the memory that a graph writes while there is the graph, which outlives the recordings it writes for.

    The graph itself keeps it, so that graphs which are part of a model can be collected with it.
    """
    graph.__dict__.setdefault("_gradscope", {})[id(listener)] = captured


def _begin(self: Any, *args: Any, **kwargs: Any) -> None:
    try:
        for listener in GRAPHS.observers:
            listener.capture_begins()
        GRAPHS.originals["capture_begin"](self, *args, **kwargs)
    except BaseException:
        for listener in GRAPHS.observers:
            listener.capture_ends(None)
        raise


def _end(self: Any) -> None:
    try:
        GRAPHS.originals["capture_end"](self)
    finally:
        for listener in GRAPHS.observers:
            listener.capture_ends(self)


def _replay(self: Any) -> None:
    for listener in tuple(GRAPHS.observers):  # one may be closed by what a row tells it
        listener.before_replay(self)
    GRAPHS.originals["replay"](self)
    for listener in tuple(GRAPHS.observers):
        listener.after_replay(self)


GRAPHS: MethodPatch[CudaGraphs] = MethodPatch(
    lambda: torch.cuda.CUDAGraph, capture_begin=_begin, capture_end=_end, replay=_replay
)
