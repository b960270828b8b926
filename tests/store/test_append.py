"""A run that goes on after a checkpoint goes on in its record."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope import InputError
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from tests.helpers.loops import batches, mlp
from tests.helpers.paths import ROOT
from tests.torture import scenario


def some_steps(model: nn.Module, optimizer: torch.optim.Optimizer, run: gradscope.Recording, first: int, last: int):
    for x, y in list(batches(last))[first:]:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """Sixty steps in one go in whole.h5; forty, and from a checkpoint at thirty again to sixty in r.h5."""
    torch.manual_seed(1)
    model = mlp()
    start = copy.deepcopy(model.state_dict())
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "whole.h5", on_failure="ignore") as run:
        some_steps(model, optimizer, run, 0, 60)
    model.load_state_dict(start)
    optimizer = sgd(model)
    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        run.epoch(0, accuracy=0.1)
        some_steps(model, optimizer, run, 0, 30)
        checkpoint = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        some_steps(model, optimizer, run, 30, 40)
    model.load_state_dict(checkpoint[0])
    optimizer.load_state_dict(checkpoint[1])
    with gradscope.record(model, optimizer, path, on_failure="ignore", mode="append", resume_step=30) as run:
        assert len(run._live.judge.series) == 30
        some_steps(model, optimizer, run, 30, 60)
        run.epoch(1, accuracy=0.2)
    return path


def test_a_resumed_run_is_the_run_that_was_never_stopped(resumed: Path) -> None:
    with open_run(resumed) as dataset, open_run(resumed.with_name("whole.h5")) as whole:
        assert dataset["step"].values.tolist() == list(range(60))
        for name in ("weight_norm", "loss", "proportion", "strength"):
            np.testing.assert_array_equal(dataset[name].values, whole[name].values, name)
        assert gradscope.diagnose(dataset).as_dict() == gradscope.diagnose(whole).as_dict()
        assert dataset.attrs["baseline_loss"] == whole.attrs["baseline_loss"]
        assert dataset.attrs["status"] == "finished"
    (text,) = [event["text"] for event in Record(resumed).events if event["kind"] == "resumed"]
    assert text == "resumed at step 30: 30 rows kept, 10 later rows dropped"
    assert Record(resumed).metrics["accuracy"].tolist() == [0.1, 0.2]


def test_later_rows_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 1500))
    w.close("finished")
    w = scenario.writer(path, mode="append", resume_step=1100, later_rows="keep")
    w.append(scenario.block(1100, 10))
    w.close("finished")
    with open_run(path) as dataset:
        assert dataset["step"].values.tolist() == [*range(1500), *range(1100, 1110)]
        np.testing.assert_array_equal(dataset["weight_norm"].values[1490:1500], scenario.values(1490, 10))
        np.testing.assert_array_equal(dataset["weight_norm"].values[1500:], scenario.values(1100, 10))


@pytest.mark.parametrize("step", [0, 1, 1023, 1024, 1025, 1499, 1500, 9999])
def test_a_record_can_be_cut_at_any_row(tmp_path: Path, step: int) -> None:
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 1500))
    w.close("finished")
    w = scenario.writer(path, mode="append", resume_step=step)
    kept = min(step, 1500)
    assert w.rows == kept
    w.append(scenario.block(kept, 600))
    w.close("finished")
    with open_run(path) as dataset:
        np.testing.assert_array_equal(dataset["step"].values, np.arange(kept + 600))
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, kept + 600))


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    model = mlp()
    gradscope.record(model, sgd(model), path).close()
    before = path.read_bytes()
    for other, message in (
        (nn.Sequential(nn.Linear(6, 3)), "its parameters are others than those of the model"),
        (
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)),
            "the shape of 4.weight",
        ),
    ):
        with pytest.raises(InputError, match=message):
            gradscope.record(other, sgd(other), path, mode="append", resume_step=0)
    two = [torch.optim.SGD(list(model.parameters())[i::2], lr=0.1) for i in (0, 1)]
    with pytest.raises(InputError, match="it has 1 parameter groups, the optimizers have 2"):
        gradscope.record(model, two, path, mode="append", resume_step=0)
    assert path.read_bytes() == before
    (tmp_path / "note.h5").write_text("not a record")
    with pytest.raises(InputError, match="is not a record, so mode='append'"):
        gradscope.record(model, sgd(model), tmp_path / "note.h5", mode="append")


STOPPED = """
import sys, torch
import gradscope
from tests.helpers.loops import mlp, train
model = mlp()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
with gradscope.record(model, optimizer, sys.argv[1], on_failure="ignore") as run:
    train(model, optimizer, 100, run)
    print("ready", flush=True)
    while True:
        train(model, optimizer, 50, run)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_sigterm_and_ctrl_c_close_the_record(tmp_path: Path, number: signal.Signals, code: int) -> None:
    path = tmp_path / "r.h5"
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    assert child.wait(300) == code
    child.stdout.close()
    assert [left.name for left in tmp_path.iterdir()] == ["r.h5"], "a log or a lock was left behind"
    with open_run(path) as dataset:
        assert dataset.attrs["status"] == "failed"
        assert dataset.sizes["step"] >= 100
