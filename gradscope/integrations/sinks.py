"""Sinks for `gradscope.record(…, sinks=[…])`: TensorBoard, Weights & Biases, trackio.

A sink shows what the record holds in full: the sizes of the whole network's gradients, penalty gradients and
weights, the proportion, strength, learning rate, what was logged, the metrics of epochs, and events, the verdict above
all. Names begin with ``gradscope/``. For another tool, subclass `gradscope.Sink`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gradscope import checks
from gradscope.extras import missing
from gradscope.mirror import Sink
from gradscope.types import InputError

__all__ = ["Sink", "TensorBoardSink", "TrackioSink", "WandbSink"]


class TensorBoardSink(Sink):
    """Event files in ``logdir``, for ``tensorboard --logdir``. Raises ImportError without tensorboard."""

    def __init__(self, logdir: str | os.PathLike[str], *, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ImportError(missing("TensorBoardSink", "tensorboard")) from None
        self._writer = SummaryWriter(str(checks.absolute_path(logdir, "logdir")), flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """Shown on the page of texts."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._writer.close()


class WandbSink(Sink):
    """A run of Weights & Biases, as ``wandb.init()`` returns it; offline ones too. It is not finished by the sink.

    What is shown has an axis of its own, ``gradscope/step``, so that it does not disturb the steps of the run's
    other ``log`` calls. The last text of a kind stands in the run's summary: ``gradscope/verdict``.
    """

    def __init__(self, run: Any, *, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        if not hasattr(run, "define_metric"):
            raise InputError(f"WandbSink got a {type(run).__name__}; expected the run that wandb.init() returns")
        self._run = run
        run.define_metric("gradscope/step", hidden=True)
        run.define_metric("gradscope/*", step_metric="gradscope/step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._run.log({"gradscope/step": step, **values})

    def text(self, step: int, name: str, text: str) -> None:
        """In the history, and so in the summary."""
        self._run.log({"gradscope/step": step, name: text})


class TrackioSink(Sink):
    """A run of trackio, as ``trackio.init()`` returns it. It is not finished by the sink."""

    def __init__(self, run: Any, *, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        if not hasattr(run, "log") or not hasattr(run, "log_system"):
            raise InputError(f"TrackioSink got a {type(run).__name__}; expected the run that trackio.init() returns")
        self._run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row of the run's metrics."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """A row that holds the text."""
        self._run.log({name: text}, step=step)
