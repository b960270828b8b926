"""Loops that do what nobody expects: folders that change, names that clash, signals, trainings that begin again."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import gradscope
from gradscope import InputError
from tests.helpers.loops import batches, mlp, train
from tests.helpers.paths import ROOT


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
    from gradscope.integrations.trainer_session import Session

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
            finish = run._closing._finish

            def interrupted(status: str) -> None:
                signal.raise_signal(signal.SIGINT)
                finish(status)

            run._closing._finish = interrupted  # type: ignore[method-assign]

    with pytest.raises(KeyboardInterrupt):
        closes_under_ctrl_c()
    assert not model[0]._forward_hooks
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert (dataset.sizes["step"], dataset.attrs["status"]) == (20, "finished")


TWICE = """
import os, signal, sys, time, torch
import gradscope, gradscope.processes.termination
from tests.helpers.loops import batches, mlp, train
signal.signal(signal.SIGTERM, signal.SIG_DFL)

def case(how):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    run = gradscope.record(model, optimizer, f"{sys.argv[1]}/{how}.h5", on_failure="ignore")
    train(model, optimizer, 5, run)
    if how == "fork":
        if not (child := os.fork()):
            time.sleep(60)
        time.sleep(0.5)  # Python forgets what arrives at once
        os.kill(child, signal.SIGTERM)
        sys.exit(os.waitpid(child, 0)[1])
    if how == "chained":
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *given: before(*given))
        run.close()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(gradscope.processes.termination.ECHO * 1.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

children = {}
for how in ("twice", "chained", "fork"):
    if not (pid := os.fork()):
        case(how)
        sys.exit(0)
    children[pid] = how
for pid, how in children.items():
    print(how, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.thorough
def test_a_second_sigterm_ends_the_process(tmp_path: Path) -> None:
    """Also the first one where the recording is over, and in a forked child."""
    ended = subprocess.run([sys.executable, "-c", TWICE, tmp_path], cwd=ROOT, capture_output=True, text=True)
    twice, chained, fork = ended.stdout.splitlines()
    assert (twice, chained) == (f"twice {-signal.SIGTERM}", f"chained {-signal.SIGTERM}"), ended.stderr
    assert fork == f"fork {signal.SIGTERM}", ended.stderr
    for how, status in (("twice", "running"), ("chained", "finished"), ("fork", "finished")):
        with gradscope.open_run(tmp_path / f"{how}.h5") as dataset:
            assert dataset.attrs["status"] == status, how


# -- trainings that begin again -------------------------------------------------------------------


def threads() -> int:
    return sum(thread.name.startswith("gradscope") for thread in threading.enumerate())


def test_a_cell_that_is_run_again_closes_what_it_left_open(tmp_path: Path) -> None:
    before = threads()
    for cell in range(3):
        model = mlp()
        optimizer = sgd(model)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = gradscope.record(model, optimizer, tmp_path / "r.h5", mode="overwrite", on_failure="ignore")
        assert len([w for w in told if "was still being recorded, and is closed" in str(w.message)]) == (cell > 0)
        train(model, optimizer, 10, run)
    assert threads() == before + 1
    assert gradscope.close_recordings("r.h5") == [tmp_path / "r.h5"]
    assert threads() == before
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert (dataset.sizes["step"], dataset.attrs["status"]) == (10, "finished")
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]


def test_a_trainer_that_begins_again_on_the_same_model(tmp_path: Path) -> None:
    """As ``auto_find_batch_size`` does; the earlier record keeps its rows and is whole."""
    model = mlp()
    gradscope.record(model, optimizer := sgd(model), tmp_path / "a.h5", on_failure="ignore")
    train(model, optimizer, 5)
    optimizer = sgd(model)
    with pytest.warns(UserWarning, match=r"a\.h5 was still being recorded, and is closed: .* the same parameters"):
        run = gradscope.record(model, optimizer, tmp_path / "b.h5", on_failure="ignore")
    train(model, optimizer, 5)
    run.close()
    for name in "ab":
        with gradscope.open_run(tmp_path / f"{name}.h5") as dataset:
            assert (dataset.sizes["step"], dataset.attrs["status"]) == (5, "finished")


@pytest.mark.parametrize("same", ["parameters", "path"])
def test_a_loop_goes_on_that_tells_an_earlier_recording(tmp_path: Path, same: str) -> None:
    """What gradscope has closed by itself raises in nobody's loop; what the user has closed does, in `log`."""
    model, other = mlp(), mlp()
    first = gradscope.record(model, optimizer := sgd(model), tmp_path / "a.h5", on_failure="ignore")
    train(model, optimizer, 5)
    watched, name = (model, "b.h5") if same == "parameters" else (other, "a.h5")
    moved = optimizer if same == "parameters" else sgd(other)
    with pytest.warns(UserWarning, match=r"a\.h5 was still being recorded, and is closed"):
        run = gradscope.record(watched, moved, tmp_path / name, mode="overwrite", on_failure="ignore")
    train(model, optimizer, 3)
    first.log(loss=1.0)
    first.epoch(1, accuracy=0.5)
    first.close()
    run.close()
    with pytest.raises(InputError, match="is closed"):
        run.log(loss=1.0)
    if same == "parameters":
        with gradscope.open_run(tmp_path / "a.h5") as dataset:
            assert (dataset.sizes["step"], dataset.attrs["status"]) == (5, "finished")


def test_what_a_with_block_holds_is_left_alone(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "a.h5", on_failure="ignore") as outer:
        with gradscope.record(model, optimizer, tmp_path / "b.h5", on_failure="ignore"):
            train(model, optimizer, 4)
        with pytest.raises(InputError, match=r"close it with gradscope\.close_recordings\('a\.h5'\)"):
            gradscope.record(model, optimizer, tmp_path / "a.h5", mode="overwrite")
        assert outer.next_step == 4
    for name in "ab":
        with gradscope.open_run(tmp_path / f"{name}.h5") as dataset:
            assert dataset.sizes["step"] == 4


def test_recordings_that_nobody_closes_are_named_once(tmp_path: Path) -> None:
    kept = []
    with pytest.warns(UserWarning, match=r"8 recordings .* \(0\.h5, 1\.h5, .*gradscope\.close_recordings\(\)"):
        for number in range(9):
            model = mlp()
            kept.append(gradscope.record(model, sgd(model), tmp_path / f"{number}.h5"))
    assert len(gradscope.close_recordings()) == 9
    assert gradscope.close_recordings() == []


def test_a_callback_that_is_used_again_writes_beside(tmp_path: Path) -> None:
    """A search of hyper-parameters, or a trainer that tries a smaller batch."""
    from gradscope.integrations.trainer_session import Session

    session = Session(tmp_path / "r.h5", "ignore", {})
    for trial in range(3):
        model = mlp()
        optimizer = sgd(model)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            session.open(model, [optimizer], resume_step=0, horizon=5, exists=session.path.exists())
        assert len(told) == (trial > 0)
        train(model, optimizer, 3 + trial)
        if trial != 1:  # that one ended in an error
            session.close()
    found = {}
    for path in sorted(tmp_path.iterdir()):
        with gradscope.open_run(path) as dataset:
            found[path.name] = dataset.sizes["step"], dataset.attrs["status"]
    assert found == {"r.h5": (3, "finished"), "r-2.h5": (4, "failed"), "r-3.h5": (5, "finished")}


# -- declared penalties, parametrized layers, flat shards -----------------------------------------


def declared(path: Path, log: Callable[[Tensor, Tensor], dict[str, Any]]) -> tuple[NDArray[Any], list[float]]:
    """The recorded loss and the data's own, of a loop that adds an L1 penalty; ``log(data, whole)``: what it logs."""
    model = mlp()
    optimizer = sgd(model)
    own = []
    with gradscope.record(model, optimizer, path, penalty=(gradscope.L1(), 0.1), on_failure="ignore") as run:
        for x, y in batches(20):
            data = nn.functional.cross_entropy(model(x), y)
            whole = data + 0.1 * sum(p.abs().sum() for p in model.parameters() if p.ndim > 1)
            optimizer.zero_grad()
            whole.backward()
            optimizer.step()
            run.log(**log(data, whole))
            own.append(data.item())
    with gradscope.open_run(path) as dataset:
        return dataset["loss"].values, own


def test_a_declared_penalty_is_taken_off_a_loss_that_holds_it(tmp_path: Path) -> None:
    got, own = declared(tmp_path / "r.h5", lambda data, whole: {"loss": whole})
    np.testing.assert_allclose(got, own, rtol=1e-4, atol=1e-5)
    assert "declared_penalty" not in capture_of(tmp_path / "r.h5")


def test_a_declared_penalty_is_not_taken_off_the_datas_loss(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="comes straight from NllLossBackward0 and does not hold the declared penalty"):
        got, own = declared(tmp_path / "r.h5", lambda data, whole: {"loss": data})
    np.testing.assert_allclose(got, own, rtol=1e-6)
    assert "nothing is taken off" in capture_of(tmp_path / "r.h5")["declared_penalty"]


def test_a_loss_below_zero_under_a_declared_penalty_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"begins at -.*, after the declared penalty was taken off"):
        declared(tmp_path / "r.h5", lambda data, whole: {"loss": data.item()})
    assert "begins at -" in capture_of(tmp_path / "r.h5")["declared_penalty"]


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_a_parametrized_layer_is_a_layer(tmp_path: Path, kind: str) -> None:
    model = mlp()
    getattr(nn.utils.parametrizations, kind)(model[2])
    seen: list[float] = []
    model[2].register_forward_hook(lambda module, given, output: seen.append(output.detach().abs().mean().item()))
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", every={"activations": 1}, on_failure="ignore"):
        train(model, optimizer, 5)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["module"].values.tolist() == ["0", "1", "2", "3", "4"]
        np.testing.assert_allclose(dataset["activation_mean_abs"].sel(module="2").values, seen, rtol=1e-5)
        assert json.loads(dataset.attrs["config"])["modules"]["2"] == "Linear"


def test_flat_shards_are_refused(tmp_path: Path) -> None:
    kind = type("FullyShardedDataParallel", (nn.Sequential,), {})
    model = kind(mlp())
    with pytest.raises(InputError, match=r"fully_shard \(FSDP2\)"):
        gradscope.record(model, sgd(model), tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


# -- what else loops do ---------------------------------------------------------------------------


def test_a_recording_in_a_checkpoint_is_its_path(tmp_path: Path) -> None:
    model = mlp()
    with gradscope.record(model, sgd(model), tmp_path / "r.h5") as run:
        assert copy.deepcopy({"run": run})["run"] is run
        assert pickle.loads(pickle.dumps({"run": run})) == {"run": str(tmp_path / "r.h5")}


def test_a_loss_of_the_first_row_tells_nothing_of_the_end(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for step in range(200):
            train(model, optimizer, 1)
            if step == 0:
                run.log(loss=0.5)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        found = gradscope.diagnose(dataset)
    assert found.verdict == "undecided"
    assert "no finite loss after step 0" in found.evidence[0]


@pytest.fixture
def exhausted() -> Any:
    """Takes every file descriptor there is, and gives them back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []

    def take() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))

    def give() -> None:
        while held:
            os.close(held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    yield take, give
    give()


def test_a_process_without_file_descriptors_trains_on(tmp_path: Path, exhausted: Any) -> None:
    take, give = exhausted
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        take()
        with pytest.raises(InputError, match=r"cannot write .*s\.h5.*: Too many open files"):
            gradscope.record(other := mlp(), sgd(other), tmp_path / "s.h5")
        train(model, optimizer, 30, run)
        run.epoch(0, accuracy=0.5)
    give()
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert (dataset.sizes["step"], dataset.attrs["status"]) == (30, "finished")


# -- errors of our own ---------------------------------------------------------------------------------


def test_an_error_behind_the_training_ends_the_recording_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows so far are kept, one warning says so, and the weights are those of a training that nobody watched."""

    def trained(path: Path | None) -> list[Tensor]:
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = None if path is None else gradscope.record(model, optimizer, path, on_failure="ignore")
        for step, (x, y) in enumerate(batches(60)):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if run is not None:
                run.log(loss=loss)
                if step == 20:
                    assert run.verdict  # these rows have been carried
                    monkeypatch.setattr("gradscope.recorder.listeners.logged.scalar_columns", broken)
        if run is not None:
            run.close()
        return [p.detach().clone() for p in model.parameters()]

    def broken(*arguments: object) -> None:
        raise RuntimeError("no such column")

    with pytest.warns(UserWarning, match="ended, by an error that is not the training's .RuntimeError") as told:
        recorded = trained(tmp_path / "run.h5")
    assert len(told) == 1
    assert all(map(torch.equal, recorded, trained(None)))
    with gradscope.open_run(tmp_path / "run.h5") as dataset:
        assert 15 <= dataset.sizes["step"] <= 21
        assert dataset.attrs["status"] == "failed"
        assert "no such column" in json.loads(dataset.attrs["capture"])["ended_by"]


@pytest.mark.parametrize("modules", ["^1$", "^2$"])
def test_full_of_modules_whose_units_cannot_be_counted(tmp_path: Path, modules: str) -> None:
    model = nn.Sequential(nn.Linear(6, 1100), nn.ReLU(), nn.Linear(1100, 1100), nn.Linear(1100, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", preset="full", modules=modules) as run:
        for x, y in batches(4):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            run.log(loss=0.0)
    with gradscope.open_run(tmp_path / "run.h5") as dataset:
        assert dataset.sizes["step"] == 4
        assert dataset["activation_mean_abs"].notnull().any()
        assert "activation_unit_mean_abs" not in dataset
