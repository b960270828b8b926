"""Run each sink in a thread of its own, beside the writer of the file.

The recorder's thread only puts blocks of finished rows into a queue. So a sink that is slow, hangs or fails holds up
neither the training nor the record: what it cannot take is left out, and said once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradscope.quantities import magnitude_edges
from gradscope.recorder.kernels.magnitude_bins import BIN_EDGES
from gradscope.recording.sink import HistogramPacer, Sink, points, shown_part
from gradscope.run_info import RunInfo
from gradscope.types import Verdict

#: Blocks that may wait for a sink (four a second are made), and seconds that it has to finish at the end.
WAITING, PATIENCE = 240, 10.0
#: Edges of the bins of histograms, in log₂ of the size.
EDGES = np.array(magnitude_edges(BIN_EDGES.tolist()))


class SinkThread:
    """One sink and its thread: a consumer of rows.

    Args:
        sink: the sink.
        info: returns the run as it is known by now.
        step: returns the latest step.
        warn: called at most three times, with one line.
    """

    def __init__(
        self, sink: Sink, info: Callable[[], RunInfo], step: Callable[[], int], warn: Callable[[str], None]
    ) -> None:
        self._sink, self._info, self._step, self._warn = sink, info, step, warn
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._late = self._over = False
        takes = type(sink).histograms is not Sink.histograms
        self._pacer = HistogramPacer(lambda text: warn(f"{self._name}: {text}")) if takes else None
        self._thread = threading.Thread(target=self._run, name="gradscope-sink", daemon=True)
        self._thread.start()

    @property
    def _name(self) -> str:
        return type(self._sink).__name__

    # -- from the recording's threads -------------------------------------------------------------

    def append(self, block: Mapping[str, Any]) -> None:
        """Queue finished rows."""
        if part := shown_part(block, self._sink.every):
            self._put(self._show, part, self._info())
        for step, counts in self._pacer.part(block, self._info()) if self._pacer is not None else ():
            self._put(self._sink.histograms, step, counts, EDGES)

    def _put(self, act: Callable[..., None], *arguments: Any) -> None:
        """Queue a call; the queue is bounded, so that a sink that is slow, hangs or is over costs itself alone."""
        if self._over:
            return
        # Words and epochs are few and small, and matter more; but nothing waits without bound.
        if self._queue.qsize() < (WAITING if act in (self._show, self._sink.histograms) else 100 * WAITING):
            self._queue.put((act, arguments))
        elif not self._late:
            self._late = True
            self._warn(f"{self._name} is slower than the training: not every point is shown there")

    def event(self, step: int, kind: str, text: str) -> None:
        """Queue an event; ``strength`` is the name of a number as well."""
        name = kind if kind == "verdict" else f"events/{kind}"
        self._put(self._sink.text, step, f"gradscope/{name}", text)
        if kind == "verdict" and Verdict(text.split()[0].rstrip(":,")).failed:
            self._put(self._sink.alert, step, "the training does not learn", text)

    def tick(self) -> None:
        """Do nothing: the thread of the sink minds its own time."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Queue the metrics of an epoch, told after the latest step."""
        if not metrics:
            return
        values = {f"gradscope/{name}": float(value) for name, value in metrics.items()}
        self._put(self._sink.scalars, max(self._step(), 0), {"gradscope/epoch": float(epoch), **values})

    def close(self) -> None:
        """Let the sink show the rest, close it, and wait for that."""
        self.end()
        self.wait(time.monotonic() + PATIENCE)

    def end(self) -> None:
        """Let the sink show the rest and close it; does not wait."""
        self._queue.put((self._sink.close, ()))
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Wait until it has, or until the deadline (of `time.monotonic`)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"{self._name} has not finished in {PATIENCE:g} s; what it did not show is in the record")

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            act, arguments = job
            try:
                act(*arguments)
            except BaseException as error:  # an interrupt or an exit of the sink's is none of the training
                self._over = True
                text = f"{self._name} shows nothing more ({type(error).__name__}: {error}); the record goes on"
                self._warn(" ".join(text.split()))
                return

    def _show(self, block: Mapping[str, Any], info: RunInfo) -> None:
        for step, values in points(block, info, self._sink.layers):
            self._sink.scalars(step, values)


class MultiWriter:
    """Record's writer, and sinks that are shown what it writes: as one writer."""

    def __init__(self, writer: Any, sinks: Sequence[SinkThread]) -> None:
        self._writer, self._sinks = writer, sinks
        self.tick, self.set_attribute, self.set_static = writer.tick, writer.set_attribute, writer.set_static

    @property
    def problem(self) -> str | None:
        """What last went wrong with the disk, in one line; None: nothing has."""
        found: str | None = self._writer.problem
        return found

    def append(self, block: Mapping[str, Any]) -> None:
        """Take rows."""
        self._writer.append(block)
        for sink in self._sinks:
            sink.append(block)

    def event(self, step: int, kind: str, text: str) -> None:
        """Take an event."""
        self._writer.event(step, kind, text)
        for sink in self._sinks:
            sink.event(step, kind, text)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take metrics of an epoch."""
        self._writer.epoch(epoch, metrics)
        for sink in self._sinks:
            sink.epoch(epoch, metrics)

    def close(self, status: str) -> None:
        """Close the record first, then the sinks."""
        try:
            self._writer.close(status)
        finally:
            for sink in self._sinks:
                sink.end()
            deadline = time.monotonic() + PATIENCE  # for all of them together
            for sink in self._sinks:
                sink.wait(deadline)
