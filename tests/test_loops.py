"""Loops that do what nobody expects: folders that change, names that clash, signals, trainings that begin again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope import InputError
from tests.loops import mlp, train

ROOT = Path(__file__).parent.parent


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def capture_of(path: Path) -> dict[str, Any]:
    with gradscope.open_run(path) as dataset:
        found: dict[str, Any] = json.loads(dataset.attrs["capture"])
        return found


# -- the folder of the process --------------------------------------------------------------------


def test_a_folder_that_changes_leaves_one_whole_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, "r.h5", on_failure="ignore") as run:
        train(model, optimizer, 20, run)
        run.verdict  # noqa: B018 (rows leave for the file)
        os.chdir("elsewhere")
        train(model, optimizer, 20, run)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == []
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert (dataset.sizes["step"], dataset.attrs["status"]) == (40, "finished")


def test_a_folder_that_changes_before_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback and restarts mean the folder in which they were made."""
    from gradscope.integrations.session import Session

    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    model = mlp()
    optimizer = sgd(model)
    session = Session("callback.h5", "ignore", {})
    restarts = gradscope.Restarts(model, optimizer, path="fix", max_restarts=0, restart="none")
    os.chdir("elsewhere")
    session.open(model, [optimizer], resume_step=0, horizon=5, exists=False)
    train(model, optimizer, 5)
    session.close()
    for attempt in restarts:
        with attempt as run:
            train(model, optimizer, 5, run)
    assert (tmp_path / "callback.h5").exists()
    assert (tmp_path / "fix" / "attempt-1.h5").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("path", [None, 3, b"r.h5"])
def test_what_is_no_path_is_refused(path: object) -> None:
    model = mlp()
    with pytest.raises(InputError, match="expected a path"):
        gradscope.record(model, sgd(model), path)  # type: ignore[arg-type]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "r.h5"
    link.symlink_to(tmp_path / "store" / "r.h5")
    model = mlp()
    for _ in range(2):
        with gradscope.record(model, sgd(model), link, mode="overwrite"):
            pass
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["r.h5"]


# -- names and numbers ----------------------------------------------------------------------------


def test_two_names_never_share_a_column(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for step in range(3):
            train(model, optimizer, 1)
            if step == 0:
                with pytest.warns(UserWarning, match="'a_b' is recorded as 'a_b_2'"):
                    run.log(**{"a/b": 1.0, "a_b": 2.0})
                with pytest.warns(UserWarning, match="'v_x' is recorded as 'v_x_2'"):
                    run.epoch(0, **{"v/x": 1.0, "v_x": 2.0})
            else:
                run.log(**{"a/b": 1.0, "a_b": 2.0})
        with pytest.raises(InputError, match=r"'\.'; expected a word"):
            run.log(**{".": 1.0})
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["a_b"].values.tolist() == [1] * 3
        assert dataset["a_b_2"].values.tolist() == [2] * 3


def test_epochs_of_every_kind_of_number(tmp_path: Path) -> None:
    model = mlp()
    with gradscope.record(model, sgd(model), tmp_path / "r.h5") as run:
        run.epoch(np.int64(3), accuracy=np.float32(0.5))  # type: ignore[arg-type]
        run.epoch(torch.tensor(4), accuracy=torch.tensor([0.25]))  # type: ignore[arg-type]
        for wrong in (3.0, -1, "3", None, 2**40):
            with pytest.raises(InputError, match="expected a whole number"):
                run.epoch(wrong)  # type: ignore[arg-type]
        for metric in ("good", None, [1, 2], np.zeros(3), np.zeros((100, 100)), torch.zeros(2)):
            with pytest.raises(InputError, match=r"epoch\(m=…\) got .{,80}; expected") as error:
                run.epoch(5, m=metric)  # type: ignore[arg-type]
            assert "\n" not in str(error.value)
    with gradscope.open_run(tmp_path / "r.h5", "epochs") as table:
        assert table["epoch"].values.tolist() == [3, 4]
        assert table["accuracy"].values.tolist() == [0.5, 0.25]


def test_numbers_that_float32_does_not_hold_are_named(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    text = r"log\(huge=…\): 1.*e\+300 is kept as inf; log\(tokens=…\): 67128463 is kept as 67128464"
    run = gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore")
    for _ in range(3):
        train(model, optimizer, 1)
        run.log(tokens=67128463, huge=1e300, fine=0.1, whole=2**24, nothing=float("nan"), loss=1.0)
    with pytest.warns(UserWarning, match=text):
        run.close()
    assert set(capture_of(tmp_path / "r.h5")["kept_as_float32"]) == {"tokens", "huge"}


# -- signals --------------------------------------------------------------------------------------


@pytest.fixture
def term() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def _another(number: int, frame: Any) -> None:
    """Somebody's own handler."""


def test_a_handler_set_during_the_recording_stays(tmp_path: Path, term: None) -> None:
    model = mlp()
    with gradscope.record(model, sgd(model), tmp_path / "a.h5"):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        signal.signal(signal.SIGTERM, _another)
    assert signal.getsignal(signal.SIGTERM) is _another


def test_nested_recordings_both_hear_and_the_last_one_restores(tmp_path: Path, term: None) -> None:
    models = [mlp(), mlp()]
    optimizers = [sgd(model) for model in models]
    with pytest.raises(SystemExit), gradscope.record(models[0], optimizers[0], tmp_path / "a.h5"):
        with gradscope.record(models[1], optimizers[1], tmp_path / "b.h5"):
            pass
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # what a launcher passes on: not a second wish
        train(models[0], optimizers[0], 2)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with gradscope.open_run(tmp_path / "a.h5") as dataset:
        assert dataset.attrs["status"] == "failed"


def test_ctrl_c_while_a_record_is_closed_waits_for_it(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)

    def closes_under_ctrl_c() -> None:
        with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
            train(model, optimizer, 20, run)
            finish = run._finish

            def interrupted(status: str) -> None:
                signal.raise_signal(signal.SIGINT)
                finish(status)

            run._finish = interrupted  # type: ignore[method-assign]

    with pytest.raises(KeyboardInterrupt):
        closes_under_ctrl_c()
    assert not model[0]._forward_hooks
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert (dataset.sizes["step"], dataset.attrs["status"]) == (20, "finished")


TWICE = """
import os, signal, sys, time, torch
import gradscope
from tests.loops import mlp, train
signal.signal(signal.SIGTERM, signal.SIG_DFL)
model = mlp()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
run = gradscope.record(model, optimizer, sys.argv[1], on_failure="ignore")
train(model, optimizer, 5, run)
if sys.argv[2] == "fork":
    if not (child := os.fork()):
        time.sleep(60)
    time.sleep(0.5)  # Python forgets what arrives at once
    os.kill(child, signal.SIGTERM)
    sys.exit(os.waitpid(child, 0)[1])
if sys.argv[2] == "chained":
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *given: before(*given))
    run.close()
os.kill(os.getpid(), signal.SIGTERM)
import gradscope.termination
time.sleep(gradscope.termination.ECHO * 1.2)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["twice", "chained", "fork"])
def test_a_second_sigterm_ends_the_process(tmp_path: Path, how: str) -> None:
    """Also the first one where the recording is over, and in a forked child."""
    ended = subprocess.run([sys.executable, "-c", TWICE, str(tmp_path / "r.h5"), how], cwd=ROOT, timeout=50)
    assert ended.returncode == (signal.SIGTERM if how == "fork" else -signal.SIGTERM)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.attrs["status"] == ("running" if how == "twice" else "finished")
