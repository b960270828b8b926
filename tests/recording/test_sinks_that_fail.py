"""A sink that raises what nobody expects, or never returns, costs itself alone."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.store.reader import open_run
from tests.helpers.loops import mlp, train


class Raises(gradscope.Sink):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(every=1)
        self.error = error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        raise self.error("no more")

    def text(self, step: int, name: str, text: str) -> None:
        raise self.error("no more")


class Hangs(Raises):
    def __init__(self) -> None:
        super().__init__(RuntimeError)
        self.released = threading.Event()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.released.wait()

    text = scalars  # type: ignore[assignment]


def recorded(path: Path, *sinks: gradscope.Sink, events: int = 0) -> list[str]:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with gradscope.record(model, optimizer, path, on_failure="ignore", sinks=sinks) as run:
            for epoch in range(4):
                train(model, optimizer, 10, run)
                run.epoch(epoch, accuracy=0.5)
                run._recorder.fetch()
            for _ in range(events):
                run._notes.writer.event(1, "note", "x")
    with open_run(path) as dataset:
        assert dataset.sizes["step"] == 40
        assert dataset.attrs["status"] == "finished"
    return [str(w.message) for w in told]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_what_a_sink_raises_ends_the_sink(tmp_path: Path, error: type[BaseException]) -> None:
    (told,) = recorded(tmp_path / "r.h5", Raises(error))
    assert told == f"Raises shows nothing more ({error.__name__}: no more); the record goes on"


def test_sinks_that_never_return_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.recording.sink_thread.PATIENCE", 0.2)
    waits: list[float] = []
    joined = threading.Thread.join

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "gradscope-sink":
            assert timeout is not None
            waits.append(timeout)
        joined(thread, timeout)

    monkeypatch.setattr("threading.Thread.join", join)
    sinks = [Hangs(), Hangs(), Hangs()]
    told = recorded(tmp_path / "r.h5", *sinks)
    assert told == ["Hangs has not finished in 0.2 s; what it did not show is in the record"] * 3
    assert sum(waits) < 0.3
    for sink in sinks:
        sink.released.set()


def test_what_waits_for_a_sink_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.recording.sink_thread.PATIENCE", 0.2)
    monkeypatch.setattr("gradscope.recording.sink_thread.WAITING", 2)
    sink = Hangs()
    told = recorded(tmp_path / "r.h5", sink, events=5000)
    assert told[0] == "Hangs is slower than the training: not every point is shown there"
    queue = next(t for t in threading.enumerate() if t.name == "gradscope-sink" and t.is_alive())._target  # type: ignore[attr-defined]
    assert queue.__self__._queue.qsize() < 300
    sink.released.set()
