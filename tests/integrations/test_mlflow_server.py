"""The sink for MLflow against a tracking server of its own, in another process, through HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradscope
from gradscope.integrations.sinks import MlflowSink
from tests.helpers.loops import mlp, train

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|google|pydantic)"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    pytest.importorskip("flask", reason="mlflow-skinny has no server: pip install mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--default-artifact-root", str(folder / "artifacts")]
    log = (folder / "log").open("wb")
    child = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *words],
        stdout=log, stderr=log, cwd=folder, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            if child.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("the server does not answer")
        assert child.poll() is None, (folder / "log").read_text()[-2000:]
        yield address
    finally:
        with log:
            os.killpg(child.pid, 9)  # with its workers
            child.wait()


def _client(server: str) -> tuple[Any, str]:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    found = client.get_experiment_by_name("gradscope-tests")
    experiment = found.experiment_id if found else client.create_experiment("gradscope-tests")
    return client, client.create_run(experiment).info.run_id


def test_a_server_is_shown_what_the_record_holds(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, run_id = _client(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)  # as a user has it
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.02)
    path, sink = tmp_path / "run.h5", MlflowSink(run_id, every=5, layers=True)
    with gradscope.record(model, optimizer, path, on_failure="ignore", horizon=23, sinks=[sink]) as run:
        train(model, optimizer, 23, run)
        run.epoch(0, accuracy=0.75)
    found = client.get_run(run_id)
    assert found.data.tags["gradscope/verdict"].startswith("stalled from step 0")  # random labels
    with gradscope.open_run(path) as kept:
        for name, values in (
            ("loss", kept["loss"]),
            ("learning_rate", kept["learning_rate"][:, 0]),
            ("proportion/0.weight", kept["proportion"].sel(parameter="0.weight")),
        ):
            points = client.get_metric_history(run_id, f"gradscope/{name}")
            assert [point.step for point in points] == [0, 5, 10, 15, 20]
            np.testing.assert_allclose([p.value for p in points], values.values[::5], rtol=1e-5, err_msg=name)
    assert found.data.metrics["gradscope/accuracy"] == 0.75


def test_more_numbers_than_a_request_may_hold(server: str) -> None:
    """A server takes 1,000 metrics a request; the layers of a large model are more."""
    client, run_id = _client(server)
    sink = MlflowSink(run_id, client=client)
    sink.scalars(3, {f"gradscope/weight/{k}": float(k) for k in range(2500)})
    metrics = client.get_run(run_id).data.metrics
    assert metrics == {f"gradscope/weight/{k}": float(k) for k in range(2500)}
