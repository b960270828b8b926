"""One contract for all sinks: what a recording shows elsewhere is what its record holds, read by the tool's reader."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
import xarray as xr

import gradscope
from gradscope import quantities
from gradscope.integrations.sinks import AlertSink, MlflowSink, TensorBoardSink, TrackioSink, WandbSink, webhook
from gradscope.recording import sink_thread
from gradscope.recording.sink import HistogramPacer, Sink
from gradscope.run_info import RunInfo
from tests.helpers.loops import mlp, train

pytestmark = [
    # Of the tools themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(tensorboard|wandb|trackio|google|torch.utils.tensorboard)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # mlflow's tables
]
Point = dict[str, Any]


@dataclass
class Shown:
    """What a tool says it was shown: numbers and texts by step."""

    scalars: dict[str, dict[int, float]]
    texts: dict[str, list[str]]
    #: Counts and edges, without bins that are empty on either side.
    histograms: dict[str, dict[int, tuple[list[float], list[float]]]] = field(default_factory=dict)


def tensorboard(folder: Path) -> tuple[Sink, Callable[[], None], Callable[[], Shown]]:
    def read() -> Shown:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder)).Reload()
        scalars = {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
        texts = {
            tag.removesuffix("/text_summary"): [e.tensor_proto.string_val[0].decode() for e in found.Tensors(tag)]
            for tag in found.Tags()["tensors"]
        }
        histograms = {
            tag: {
                e.step: trimmed(v.bucket, [v.min, *v.bucket_limit])
                for e in found.Histograms(tag)
                for v in (e.histogram_value,)
            }
            for tag in found.Tags()["histograms"]
        }
        return Shown(scalars, texts, histograms)

    return TensorBoardSink(folder, every=5, layers=True), lambda: None, read


def trimmed(counts: Sequence[float], edges: Sequence[float]) -> tuple[list[float], list[float]]:
    there = np.flatnonzero(counts)
    return list(counts[there[0] : there[-1] + 1]), list(edges[there[0] : there[-1] + 2])


def by_name(rows: list[tuple[int, Mapping[str, Any]]]) -> Shown:
    shown = Shown({}, {})
    for step, values in rows:
        for name, value in values.items():
            if isinstance(value, str):
                shown.texts.setdefault(name, []).append(value)
            elif isinstance(value, dict):
                shown.histograms.setdefault(name, {})[step] = trimmed(value["values"], value["bins"])
            elif name.startswith("gradscope/") and name != "gradscope/step":
                shown.scalars.setdefault(name, {})[step] = value
    return shown


def wandb_records(path: Path) -> Any:
    """The records of an offline run's file: LevelDB's log format around wandb's own protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""  # after the file's header
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4) and at <= len(data):  # full, last
            yield Record.FromString(whole)
            whole = b""


def wandb_finished(path: Path) -> list[Any]:
    """The same when all are there: the file is written by wandb's own process, which `finish` does not wait for."""
    until = time.monotonic() + 60
    while True:
        found = list(wandb_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < until, f"wandb has not finished {path}"
        time.sleep(0.1)


def wandb(folder: Path) -> tuple[Sink, Callable[[], None], Callable[[], Shown]]:
    import wandb as tool

    settings = tool.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False)
    folder.mkdir()
    run = tool.init(project="gradscope-tests", mode="offline", dir=folder, settings=settings)

    def read() -> Shown:
        rows = []
        for record in wandb_finished(next(folder.rglob("*.wandb"))):
            if record.WhichOneof("record_type") == "history":
                values: dict[str, Any] = {}
                for item in record.history.item:
                    name, *part = [item.key] if item.key else list(item.nested_key)
                    found = json.loads(item.value_json)
                    if part:
                        values.setdefault(name, {})[part[0]] = found
                    else:
                        values[name] = found
                rows.append((values["gradscope/step"], values))
        return by_name(rows)

    return WandbSink(run, every=5, layers=True), run.finish, read


def trackio(folder: Path) -> tuple[Sink, Callable[[], None], Callable[[], Shown]]:
    import trackio as tool
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    run = tool.init(project="gradscope-tests", name=folder.name, embed=False, auto_log_cpu=False, auto_log_gpu=False)
    assert Path(utils.TRACKIO_DIR) == Path(os.environ["TRACKIO_DIR"])

    def read() -> Shown:
        logs = SQLiteStorage.get_logs("gradscope-tests", folder.name)
        return by_name([(row["step"], row) for row in logs])

    return TrackioSink(run, every=5, layers=True), run.finish, read


def mlflow(folder: Path) -> tuple[Sink, Callable[[], None], Callable[[], Shown]]:
    tool = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'gradscope-dynamics[mlflow]'")
    client = tool.MlflowClient(f"sqlite:///{folder}.db")
    run = client.create_run(client.create_experiment("gradscope-tests", artifact_location=folder.as_uri()))

    def read() -> Shown:
        found = client.get_run(run.info.run_id).data
        scalars = {m: {p.step: p.value for p in client.get_metric_history(run.info.run_id, m)} for m in found.metrics}
        return Shown(scalars, {name: [text] for name, text in found.tags.items() if name.startswith("gradscope/")})

    return MlflowSink(run.info.run_id, client=client, every=5, layers=True), lambda: None, read


TOOLS = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio, "mlflow": mlflow}


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))  # read when trackio is first imported
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield


def record_with(sink: Sink, path: Path, weight_decay: float = 0.02, steps: int = 23) -> xr.Dataset:
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=weight_decay)
    with gradscope.record(model, optimizer, path, on_failure="ignore", horizon=steps, sinks=[sink]) as run:
        train(model, optimizer, steps, run)
        run.epoch(0, accuracy=0.75)
    with gradscope.open_run(path) as dataset:
        return dataset.load()


@pytest.mark.thorough
@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_shown_what_the_record_holds(name: str, tmp_path: Path) -> None:
    sink, finish, read = TOOLS[name](tmp_path / name)
    kept = record_with(sink, tmp_path / "run.h5")
    finish()
    shown = read()
    steps = [0, 5, 10, 15, 20]
    numel = kept["numel"].values
    gradient = (kept["loss_gradient_mean_abs"] * numel).sum("parameter") / numel.sum()
    penalty = (kept["penalty_gradient_mean_abs"] * numel).sum("parameter") / numel.sum()
    expected = {
        "loss": kept["loss"],
        "loss_gradient_mean_abs": gradient,
        "penalty_gradient_mean_abs": penalty,
        "proportion": gradient / (gradient + penalty),
        "learning_rate": kept["learning_rate"][:, 0],
        "strength": kept["strength"][:, 0],
        "proportion/0.weight": kept["proportion"].sel(parameter="0.weight"),
    }
    for quantity, values in expected.items():
        points = shown.scalars[f"gradscope/{quantity}"]
        assert list(points) == steps
        np.testing.assert_allclose(list(points.values()), values.sel(step=steps).values, rtol=1e-5, err_msg=quantity)
    assert list(shown.scalars["gradscope/accuracy"].values()) == [0.75]
    (verdict,) = shown.texts["gradscope/verdict"]
    assert verdict.startswith("stalled from step 0")  # random labels


@pytest.mark.thorough
@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_shown_the_histograms_that_are_recorded(name: str, tmp_path: Path) -> None:
    """Those of MLflow are none, for it has no such thing."""
    sink, finish, read = TOOLS[name](tmp_path / name)
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "run.h5"
    with gradscope.record(model, optimizer, path, preset="full", on_failure="ignore", sinks=[sink]) as run:
        train(model, optimizer, 7, run)
    finish()
    shown = read().histograms
    if name == "mlflow":
        assert not shown
        return
    with gradscope.open_run(path) as kept:
        for quantity in ("weight_histogram", "loss_gradient_histogram"):
            for parameter in kept["parameter"].values:
                counts = kept[quantity].sel(parameter=parameter, step=0).values
                edges = quantities.magnitude_edges(kept["bin"].values)
                assert shown[f"gradscope/{quantity}/{parameter}"] == {0: trimmed(counts.tolist(), edges)}


def test_histograms_are_shown_at_a_bounded_rate() -> None:
    """A row in ten seconds, of a hundred tensors, and that is said."""
    told: list[str] = []
    pacer = HistogramPacer(told.append)
    names = tuple(f"l{k}" for k in range(103))
    info = cast(RunInfo, SimpleNamespace(parameters=names))
    counts = np.ones((40, 103, 28), np.float32)
    counts[1::2] = np.nan
    block = {"step": np.arange(40), "time": np.arange(40.0), "weight_histogram": counts}
    found = pacer.part({name: values[:15] for name, values in block.items()}, info)
    found += pacer.part({name: values[15:] for name, values in block.items()}, info)
    assert [step for step, _ in found] == [0, 10, 20, 30]
    assert all(len(values) == 100 for _, values in found)
    assert told == ["histograms are shown of the first 100 tensors of 103"]
    assert pacer.part({"step": np.arange(3), "time": np.arange(3.0)}, info) == []


# -- alerts ---------------------------------------------------------------------------------------


def no_info() -> RunInfo:
    """Of a run that no row is shown of."""
    return RunInfo.__new__(RunInfo)


def test_a_failure_is_an_alert_and_a_run_that_learns_is_none(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    record_with(AlertSink(lambda *words: told.append(words)), tmp_path / "run.h5")
    [(title, text)] = told
    assert title == "the training does not learn"
    assert text.startswith("stalled from step 0")
    one = sink_thread.SinkThread(AlertSink(lambda *words: told.append(words)), no_info, lambda: 0, print)
    one.event(9, "verdict", "healthy: the run learns")
    one.event(9, "verdict", "undecided: the record does not tell")
    one.event(9, "finding", "dead_units: …")
    one.close()
    assert len(told) == 1
    with pytest.raises(gradscope.InputError, match="AlertSink got a str"):
        AlertSink("https://example.org")  # type: ignore[arg-type]


def test_alerts_of_the_tools_and_of_a_webhook() -> None:
    class Run:
        """As wandb's and trackio's."""

        alerts: ClassVar[list[dict[str, Any]]] = []

        def define_metric(self, *words: Any, **more: Any) -> None: ...
        def log(self, *words: Any, **more: Any) -> None: ...
        def log_system(self) -> None: ...
        def alert(self, **given: Any) -> None:
            self.alerts.append(given)

    for sink in (WandbSink(Run()), TrackioSink(Run())):
        sink.alert(7, "the training does not learn", "stalled")
    assert Run.alerts == [
        {"title": "gradscope: the training does not learn", "text": "stalled"},
        {"title": "gradscope: the training does not learn", "text": "stalled", "step": 7},
    ]
    posted: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        webhook(f"http://127.0.0.1:{server.server_port}/")("it fails", "stalled from step 0")
    assert posted == [{"title": "it fails", "text": "it fails: stalled from step 0"}]
    with pytest.raises(gradscope.InputError, match="begins with https://"):
        webhook("file:///etc/passwd")


# -- what a bad sink may not do -------------------------------------------------------------------


class Bad(Sink):
    """Fails, or hangs, at its third point."""

    def __init__(self, hang: threading.Event | None = None) -> None:
        super().__init__(every=1)
        self.points, self.hang = 0, hang

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.points += 1
        if self.points == 3:
            if self.hang is None:
                raise ConnectionError("the server\nis gone")
            self.hang.wait(60)

    def text(self, step: int, name: str, text: str) -> None:
        self.seen = (step, name, text)


def test_a_sink_that_fails_is_told_once_and_the_record_is_whole(tmp_path: Path) -> None:
    sink = Bad()
    with pytest.warns(UserWarning, match="Bad shows nothing more .ConnectionError: the server is gone.") as told:
        kept = record_with(sink, tmp_path / "run.h5", steps=40)
    assert len(told) == 1
    assert sink.points == 3
    assert kept.sizes["step"] == 40
    assert kept.attrs["status"] == "finished"


def test_a_sink_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_thread, "PATIENCE", 0.1)
    release = threading.Event()
    with pytest.warns(UserWarning, match="Bad has not finished in 0.1 s; what it did not show is in the record"):
        kept = record_with(Bad(release), tmp_path / "run.h5")
    release.set()
    assert kept.sizes["step"] == 23
    assert kept.attrs["status"] == "finished"


def test_a_sink_that_is_slow_loses_points_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_thread, "WAITING", 2)
    told: list[str] = []
    release = threading.Event()

    class Slow(Bad):
        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            self.points += 1
            release.wait(60)

    sink = Slow()
    one = sink_thread.SinkThread(sink, no_info, lambda: 0, told.append)
    for _ in range(10):
        one.epoch(0, {"accuracy": 0.5})
    for step in range(10):
        one.append({"step": np.array([step])})
    for step in range(10):
        one._put(sink.histograms, step, {}, sink_thread.EDGES)  # large, and none of them a word
    one.event(9, "verdict", "healthy")
    assert one._queue.qsize() < 16
    assert told == ["Slow is slower than the training: not every point is shown there"]
    release.set()
    one.close()
    assert sink.points == 10
    assert sink.seen == (9, "gradscope/verdict", "healthy")


def test_weights_do_not_depend_on_sinks(tmp_path: Path) -> None:
    finals = []
    for sinks in ([], [TensorBoardSink(tmp_path / "logs", every=1, layers=True)]):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
        path = tmp_path / f"{len(sinks)}.h5"
        with gradscope.record(model, optimizer, path, on_failure="ignore", sinks=sinks) as run:
            train(model, optimizer, 20, run)
        finals.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_mistakes(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        gradscope.InputError,
        match=r"sinks holds 'logs', and no .*; expected a gradscope.Sink, such as",
    ):
        gradscope.record(model, optimizer, tmp_path / "run.h5", sinks=["logs"])  # type: ignore[list-item]
    assert not (tmp_path / "run.h5").exists()
    with pytest.raises(gradscope.InputError, match=r"WandbSink got a str; expected the run that wandb.init"):
        WandbSink("my-run")
    with pytest.raises(gradscope.InputError, match=r"TrackioSink got a str; expected the run that trackio.init"):
        TrackioSink("my-run")
    with pytest.raises(gradscope.InputError, match="every is 0"):
        TensorBoardSink(tmp_path / "logs", every=0)
