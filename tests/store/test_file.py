"""The file: opens natively, survives its readers, refuses what it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import gradscope
from gradscope import InputError, RecordNotFoundError
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.store.storage import Storage
from gradscope.store.writer import Writer
from tests.helpers.loops import mlp, train
from tests.helpers.paths import ROOT

ATTRIBUTES = {
    "gradscope_version": "0", "penalty": "l2", "baseline_loss": 1.0, "horizon": -1,
    "config": {"groups": [{}, {}]}, "capture": {},
}  # fmt: skip


def writer(path: Path, **options: object) -> Writer:
    static = {"numel": np.array([4, 2]), "penalised": np.array([True, False]), "group": np.array([0, 1])}
    options = {"storage": Storage(flush_rows=64)} | options
    return Writer(path, parameters=["a", "b"], modules=["m"], groups=2, static=static, attributes=ATTRIBUTES, **options)  # type: ignore[arg-type]


def block(start: int, rows: int, **scalars: float) -> dict[str, np.ndarray]:
    steps = np.arange(start, start + rows)
    return {
        "step": steps,
        "skipped": np.zeros(rows, dtype=np.int8),
        "weight_norm": np.stack([steps, -steps], 1).astype(np.float32),
        "strength": np.ones((rows, 2), dtype=np.float32),
        **{name: np.full(rows, value, dtype=np.float32) for name, value in scalars.items()},
    }


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_a_finished_record_opens_natively(collapsed_run: Path, engine: str) -> None:
    with xr.open_dataset(collapsed_run, engine=engine) as dataset:
        assert dataset["proportion"].dims == ("step", "parameter")
        assert dataset["strength"].dims == ("step", "group")
        assert dataset["group"].dims == ("parameter",)
        assert dataset["parameter"].values[0] == "0.weight"
        assert dataset["penalised"].dtype == bool
        assert dataset["skipped"].dtype == bool
        assert dataset.attrs["status"] == "finished"
        assert np.isfinite(dataset["loss"].values).all()
        for name, variable in dataset.variables.items():
            assert "long_name" in variable.attrs, name
    tree = xr.open_datatree(collapsed_run, engine=engine)
    assert "accuracy" in tree["epochs"]
    assert {"kind", "text", "step"} <= set(tree["events"].variables)
    tree.close()


def test_rows_events_and_epochs_come_back(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    w = writer(path)
    w.append(block(0, 100))
    w.event(3, "strength", "λ = 0.1")
    w.epoch(0, {"accuracy": 0.5})
    w.append(block(100, 50, late=2.0))
    w.epoch(1, {"accuracy": 0.6, "extra": 1.0})
    w.epoch(0, {"extra": 3.0})
    w.close("finished")
    w.close("finished")
    with open_run(path) as dataset:
        assert dataset["step"].values.tolist() == list(range(150))
        np.testing.assert_array_equal(dataset["weight_norm"].values[:, 1], -np.arange(150))
        late = dataset["late"].values
        assert np.isnan(late[:100]).all()
        assert (late[100:] == 2).all()
    assert Record(path).events == [{"step": 3, "kind": "strength", "text": "λ = 0.1"}]
    metrics = Record(path).metrics
    np.testing.assert_array_equal(metrics["accuracy"], [0.5, 0.6])
    np.testing.assert_array_equal(metrics["extra"], [3.0, 1.0])


def test_a_running_record_can_be_read_and_shows_published_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    w = writer(path)
    w.append(block(0, 64))
    w.append(block(64, 10))  # held back: neither many nor old
    with open_run(path) as dataset:
        assert dataset.attrs["status"] == "running"
        assert dataset.sizes["step"] == 64
    w.append(block(74, 60))
    with open_run(path) as dataset:
        assert dataset.sizes["step"] == 134
    w.close("finished")


def test_a_row_is_written_after_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = writer(tmp_path / "r.h5")
    w.append(block(0, 1))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.5)
    w.append(block(1, 1))
    assert w.rows == 2
    w.close("finished")


def test_a_tick_makes_rows_events_and_epochs_durable_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.h5"
    w = writer(path)
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for number, give in enumerate((
        lambda: w.append(block(0, 1)), lambda: w.event(0, "a", "b"), lambda: w.epoch(0, {"accuracy": 0.5}),
        lambda: w.set_attribute("horizon", 7), lambda: w.set_static("penalised", np.array([True, True])),
    )):  # fmt: skip
        give()
        commit = w._file._number
        w.tick()
        assert w._file._number == commit, number
        now[0] += 0.75  # a thread that ticks every quarter of a second has a quarter left
        w.tick()
        assert w._file._number == commit + 1, number
        w.tick()
        assert w._file._number == commit + 1, number
    with open_run(path) as dataset:
        assert dataset.sizes["step"] == 1
        assert dataset.attrs["horizon"] == 7
        assert dataset["penalised"].values.all()
    w.close("finished")


def test_threads_may_all_give_at_once(tmp_path: Path) -> None:
    w = writer(tmp_path / "r.h5", storage=Storage(flush_rows=50))

    def tell(number: int) -> None:
        for i in range(50):
            w.event(i, "thread", f"{number} {i}")
            w.epoch(i, {f"metric_{number}": float(i)})

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for start in range(0, 1000, 10):
        w.append(block(start, 10))
        w.tick()
    for thread in threads:
        thread.join()
    w.close("finished")
    assert w.problem is None
    texts = [event["text"] for event in Record(tmp_path / "r.h5").events]
    assert sorted(texts) == sorted(f"{n} {i}" for n in range(4) for i in range(50))
    metrics = Record(tmp_path / "r.h5").metrics
    for number in range(4):
        np.testing.assert_array_equal(metrics[f"metric_{number}"], metrics["epoch"])


def test_shapes_that_do_not_fit_are_refused_at_once(tmp_path: Path) -> None:
    w = writer(tmp_path / "r.h5")
    with pytest.raises(InputError, match=r"weight_norm has the shape \(1, 3\); expected \(1, 2\)"):
        w.append({"step": np.arange(1), "weight_norm": np.ones((1, 3))})
    with pytest.raises(InputError, match="needs the dimension bin, which this record was opened without"):
        w.append({"step": np.arange(1), "weight_histogram": np.ones((1, 2, 4))})
    w.close("finished")
    with open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 0


KILLED = """
import sys, torch
sys.path.insert(0, {root!r})
import gradscope
from tests.helpers.loops import mlp, train
model = mlp()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
run = gradscope.record(model, optimizer, sys.argv[1], on_failure="ignore")
train(model, optimizer, 300, run)
print("ready", flush=True)
while True:
    train(model, optimizer, 50, run)
"""


@pytest.mark.thorough
def test_a_killed_process_leaves_a_readable_record(tmp_path: Path) -> None:
    root = str(ROOT)
    path = tmp_path / "r.h5"
    child = subprocess.Popen([sys.executable, "-c", KILLED.format(root=root), str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(1.5)  # a row is durable after a second
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with open_run(path) as dataset:
        assert dataset.attrs["status"] == "running"
        assert dataset.sizes["step"] >= 200
        assert np.isfinite(dataset["weight_norm"].values).all()
        assert gradscope.diagnose(dataset).verdict in ("healthy", "undecided")


@pytest.mark.thorough
def test_a_script_that_never_closes_still_finishes_its_file(tmp_path: Path) -> None:
    code = KILLED.format(root=str(ROOT)).split("print(")[0]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.h5")], check=True)
    with open_run(tmp_path / "r.h5") as dataset:
        assert dataset.attrs["status"] == "finished"
        assert dataset.sizes["step"] == 300


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((3, 3))


def later(path: Path) -> None:
    writer(path).close("finished")
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = 99


def truncated(path: Path) -> None:
    w = writer(path)
    w.append(block(0, 500))
    w.close("finished")
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "there is no file"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("loss: 1.0"), "is not an HDF5 file"),
        (foreign, "not a gradscope record"),
        (later, "schema version 99"),
        (truncated, "damaged"),
    ],
)
def test_what_is_not_a_record_is_said(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "r.h5"
    make(path)
    with pytest.raises(InputError, match=message):
        open_run(path)


def test_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_run(tmp_path / "none.h5")
    assert issubclass(RecordNotFoundError, ValueError)


def test_an_empty_record_has_nothing_to_diagnose(tmp_path: Path) -> None:
    model = mlp()
    gradscope.record(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.h5").close()
    with open_run(tmp_path / "r.h5") as dataset, pytest.raises(InputError, match="the record is empty"):
        gradscope.diagnose(dataset)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        train(model, optimizer, 3, run)
        with pytest.raises(InputError):
            gradscope.record(model, optimizer, tmp_path / "r.h5", mode="overwrite")


@pytest.mark.thorough
def test_a_fork_does_not_touch_the_record(tmp_path: Path) -> None:
    """A forked child that exits (a DataLoader worker, say) leaves the parent's record running."""
    code = KILLED.format(root=str(ROOT)).split("print(")[0] + FORKS
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r.h5")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["running", "finished"]
    with open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 350


FORKS = """
import os, warnings
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0, "the child's end"
train(model, optimizer, 50, run)
with gradscope.open_run(sys.argv[1]) as dataset:
    print(dataset.attrs["status"])
run.close()
with gradscope.open_run(sys.argv[1]) as dataset:
    print(dataset.attrs["status"])
"""
