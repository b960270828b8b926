"""Sinks for `gradscope.record(…, sinks=[…])`: TensorBoard, Weights & Biases, trackio, MLflow, alerts.

A sink shows what the record holds in full: the sizes of the whole network's gradients, penalty gradients and weights,
the proportion, strength, learning rate, what was logged, the metrics of epochs, and events, the verdict above all.
Where the recording counts histograms (preset ``full``), TensorBoard, W&B and trackio are shown them too, at most a row
in ten seconds; MLflow has none.
Names begin with ``gradscope/``. For another tool, subclass `gradscope.Sink`.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope import checks
from gradscope.extras import missing
from gradscope.recording.sink import Sink
from gradscope.types import InputError

__all__ = ["AlertSink", "MlflowSink", "Sink", "TensorBoardSink", "TrackioSink", "WandbSink", "webhook"]

#: Seconds that a webhook has to answer.
ANSWER = 10.0


class TensorBoardSink(Sink):
    """Sink into event files, for ``tensorboard --logdir``.

    Args:
        logdir: the folder of the event files.
        every: one step of this many is shown.
        layers: show the layers, too.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, logdir: str | os.PathLike[str], *, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ImportError(missing("TensorBoardSink", "tensorboard")) from None
        self._writer = SummaryWriter(str(checks.absolute_path(logdir, "logdir")), flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def histograms(self, step: int, counts: Mapping[str, NDArray[np.float32]], edges: NDArray[np.float64]) -> None:
        """Write one histogram a name, over log₂ of the size."""
        middles = (edges[:-1] + edges[1:]) / 2
        for name, each in counts.items():
            there = np.flatnonzero(each)
            if not len(there):
                continue
            bins = slice(there[0], there[-1] + 1)
            number, total, squares = (float(each @ middles**power) for power in (0, 1, 2))
            self._writer.add_histogram_raw(
                name, float(edges[bins.start]), float(edges[bins.stop]), number, total, squares,
                edges[bins.start + 1 : bins.stop + 1].tolist(), each[bins].tolist(), step,
            )  # fmt: skip

    def text(self, step: int, name: str, text: str) -> None:
        """Write to the page of texts."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class WandbSink(Sink):
    """Sink into a run of Weights & Biases; offline ones too. It does not finish the run.

    What is shown has an axis of its own, ``gradscope/step``, so that it does not disturb the steps of the run's other
    ``log`` calls. The last text of a kind stands in the run's summary: ``gradscope/verdict``.

    Args:
        run: what ``wandb.init()`` returns.
        every: one step of this many is shown.
        layers: show the layers, too.
    """

    def __init__(self, run: Any, *, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        if not hasattr(run, "define_metric"):
            raise InputError(f"WandbSink got a {type(run).__name__}; expected the run that wandb.init() returns")
        self._run = run
        run.define_metric("gradscope/step", hidden=True)
        run.define_metric("gradscope/*", step_metric="gradscope/step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row of the run's history."""
        self._run.log({"gradscope/step": step, **values})

    def histograms(self, step: int, counts: Mapping[str, NDArray[np.float32]], edges: NDArray[np.float64]) -> None:
        """Log one histogram a name, over log₂ of the size."""
        from wandb import Histogram  # there, for there is a run

        shown = {name: Histogram(np_histogram=(each, edges)) for name, each in counts.items()}
        self._run.log({"gradscope/step": step, **shown})

    def text(self, step: int, name: str, text: str) -> None:
        """Log to the history, and so to the summary."""
        self._run.log({"gradscope/step": step, name: text})

    def alert(self, step: int, title: str, text: str) -> None:
        """Send an alert of the run, which W&B sends on as its user has set."""
        self._run.alert(title=f"gradscope: {title}", text=text)


class TrackioSink(Sink):
    """Sink into a run of trackio. It does not finish the run.

    Args:
        run: what ``trackio.init()`` returns.
        every: one step of this many is shown.
        layers: show the layers, too.
    """

    def __init__(self, run: Any, *, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        if not hasattr(run, "log") or not hasattr(run, "log_system"):
            raise InputError(f"TrackioSink got a {type(run).__name__}; expected the run that trackio.init() returns")
        self._run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row of the run's metrics."""
        self._run.log(dict(values), step=step)

    def histograms(self, step: int, counts: Mapping[str, NDArray[np.float32]], edges: NDArray[np.float64]) -> None:
        """Log one histogram a name, over log₂ of the size, where this version of trackio has them."""
        import trackio  # there, for there is a run

        if (histogram := getattr(trackio, "Histogram", None)) is not None:
            self._run.log({name: histogram(np_histogram=(each, edges)) for name, each in counts.items()}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a row that holds the text."""
        self._run.log({name: text}, step=step)

    def alert(self, step: int, title: str, text: str) -> None:
        """Send an alert of the run, where this version of trackio has them."""
        if hasattr(self._run, "alert"):
            self._run.alert(title=f"gradscope: {title}", text=text, step=step)


class MlflowSink(Sink):
    """Sink into a run of MLflow. It does not end the run.

    Numbers are metrics, the last text of a kind is a tag: ``gradscope/verdict``. MLflow has no histograms.

    Args:
        run_id: identifier of the run, ``mlflow.active_run().info.run_id``.
        client: one that is set up already.
        every: one step of this many is shown.
        layers: show the layers, too.

    Raises:
        ImportError: mlflow is not installed.
    """

    def __init__(self, run_id: str, *, client: Any = None, every: int = 10, layers: bool = False) -> None:
        super().__init__(every=every, layers=layers)
        if not isinstance(run_id, str):
            raise InputError(f"MlflowSink got a {type(run_id).__name__}; expected mlflow.active_run().info.run_id")
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric
        except ImportError:
            raise ImportError(missing("MlflowSink", "mlflow")) from None
        self._run_id, self._client, self._metric = run_id, client or MlflowClient(), Metric

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log all metrics of the step in one request."""
        now = int(1000 * time.time())
        self._client.log_batch(self._run_id, metrics=[self._metric(n, v, now, step) for n, v in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        """Set a tag of the run."""
        self._client.set_tag(self._run_id, name, text)


class AlertSink(Sink):
    """Sink that calls a function when the run is found not to learn, in a thread of its own.

        sinks=[AlertSink(print), AlertSink(webhook("https://…"))]

    Args:
        function: called as ``function(title, text)``.
    """

    def __init__(self, function: Callable[[str, str], object]) -> None:
        super().__init__(every=10**9)
        if not callable(function):
            raise InputError(f"AlertSink got a {type(function).__name__}; expected a function of a title and a text")
        self._function = function

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore numbers."""

    def text(self, step: int, name: str, text: str) -> None:
        """Ignore texts."""

    def alert(self, step: int, title: str, text: str) -> None:
        """Call the function."""
        self._function(title, text)


def webhook(url: str) -> Callable[[str, str], None]:
    """Return a function for `AlertSink` that posts ``{"title": …, "text": …}`` as JSON, as Slack and others take it.

    Args:
        url: an address that begins with ``https://`` or ``http://``.

    Returns:
        A function of a title and a text.

    Raises:
        InputError: the address begins otherwise.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"url is {url!r}; expected an address that begins with https://")

    def post(title: str, text: str) -> None:
        body = json.dumps({"title": title, "text": f"{title}: {text}"}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=ANSWER).close()

    return post
