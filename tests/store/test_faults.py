"""Faults that are really provoked, in small numbers; `make torture` does the same in large ones."""

from __future__ import annotations

import copy
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import gradscope
from gradscope import InputError
from gradscope.store import pending, redo_log
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.store.writer_lock import beside, writer_of
from tests.helpers.loops import mlp, train
from tests.helpers.paths import ROOT
from tests.torture import fuzz, power, records, scenario, training
from tests.torture.small_disk import NoSmallDisk, fill, small_disk
from tests.torture.system_calls import clean, half_applied, killed_at


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the faults do not depend on the disk, the time they take does."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.thorough
@pytest.mark.parametrize("torn", [False, True], ids=["before", "within"])
def test_a_kill_at_any_system_call_of_a_flush(memory: Path, torn: bool) -> None:
    """Exhaustive over the flush that ends a chunk: the one that frees, compresses and writes anew."""
    path = memory / "r.h5"
    number = 0
    while True:
        clean(path)
        rows, died = killed_at(number, torn, lambda p: scenario.live(path, p, scenario.FLUSHES[:3]), after=800)
        if not died:
            break
        scenario.verify(path, rows, thorough=number % 6 == 0)
        number += 1
    assert number > 15


@pytest.mark.thorough
def test_a_kill_at_any_system_call_of_a_recovery(memory: Path) -> None:
    path = memory / "r.h5"
    rows = half_applied(path, lambda p, published: scenario.live(p, published, close=False))
    crashed = {left.name: left.read_bytes() for left in memory.iterdir()}
    number = 0
    while True:
        clean(path)
        for name, content in crashed.items():
            (memory / name).write_bytes(content)
        _, died = killed_at(number, True, lambda published: redo_log.redo(path) and None)
        scenario.verify(path, rows)
        if not died:
            break
        number += 1
    assert number > 3


@pytest.mark.thorough
def test_power_loss(memory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        trace = power.Trace()
        trace.watch(patch)
        scenario.live(memory / "r.h5", trace.published)
    source = random.Random(0)
    for number in range(20):
        folder = memory / str(number)
        folder.mkdir()
        path, rows = power.crash(trace, memory / "r.h5", folder, source)
        scenario.verify(path, rows)


@pytest.mark.thorough
def test_a_training_killed_at_random_moments(memory: Path) -> None:
    for number, delay in enumerate(training.random_delays(3, 2.5)):
        path = memory / f"{number}.h5"
        old, _ = training.kill(path, delay)
        training.check(path, old)
        assert writer_of(path) is None, "a dead writer looks alive"


# -- a disk that takes nothing --------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk") as folder:
            yield folder
    except NoSmallDisk as error:
        pytest.skip(f"no tmpfs can be mounted here ({error}); a full disk was not provoked")


def test_a_full_disk_and_space_again(disk: Path) -> None:
    path = disk / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 300))
    w.flush()
    filler = fill(disk)
    for start in range(300, 2500, 100):
        w.append(scenario.block(start, 100))
        w.flush()
    assert w.problem is not None
    assert "No space left" in w.problem
    with open_run(path) as dataset:  # nothing earlier is lost, and a reader meets no half of anything
        rows = dataset.sizes["step"]
        assert 300 <= rows < 2500
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, rows))
    filler.unlink()
    w.append(scenario.block(2500, 100))
    w.close("finished")
    with open_run(path) as dataset:
        assert dataset.attrs["status"] == "finished"
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 2600))


def test_a_kill_while_the_disk_is_full(disk: Path) -> None:
    path = disk / "r.h5"

    def life(published) -> None:
        w = scenario.writer(path)
        w.append(scenario.block(0, 300))
        w.flush()
        fill(disk)
        w.append(scenario.block(300, 1000))
        w.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    killed_at(1 << 60, False, life)
    (disk / "filler").unlink()
    assert scenario.verify(path, 300) == 300


def test_what_memory_cannot_hold_is_told(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "HELD_BYTES", 50_000)
    w = scenario.writer(disk / "r.h5")
    filler = fill(disk)
    for start in range(0, 2000, 100):
        w.append(scenario.block(start, 100))
        w.flush()
    filler.unlink()
    w.close("finished")
    with open_run(disk / "r.h5") as dataset:
        steps = dataset["step"].values
        assert steps[-1] == 1999
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 2000)[steps])
    (lost,) = [event["text"] for event in Record(disk / "r.h5").events if event["kind"] == "rows_lost"]
    assert lost.startswith(f"{2000 - len(steps)} rows ")


def test_a_full_disk_is_one_warning_and_the_training_goes_on(disk: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with gradscope.record(model, optimizer, disk / "r.h5", on_failure="ignore") as run:
            train(model, optimizer, 20, run)
            filler = fill(disk)
            for _ in range(5):
                train(model, optimizer, 40, run)
                time.sleep(0.5)
            filler.unlink()
    assert len([w for w in told if "cannot be written" in str(w.message)]) == 1
    with open_run(disk / "r.h5") as dataset:
        assert dataset.sizes["step"] == 220


# -- a file that goes away ------------------------------------------------------------------------


def test_a_deleted_file_is_written_again(memory: Path) -> None:
    path = memory / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 1100))
    w.flush()
    for left in (path, redo_log.beside(path)):
        left.unlink()
    w.append(scenario.block(1100, 100))
    w.close("finished")
    assert "was deleted" in str(w.problem)
    with open_run(path) as dataset:
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 1200))


def test_a_file_replaced_by_another_is_left_alone(memory: Path) -> None:
    path = memory / "r.h5"
    w = scenario.writer(path)
    path.unlink()
    path.write_text("somebody else's")
    w.append(scenario.block(0, 100))
    w.close("finished")
    assert w.problem is not None
    assert path.read_text() == "somebody else's"


def test_a_folder_that_goes_away_stops_nothing(memory: Path) -> None:
    folder = memory / "runs"
    folder.mkdir()
    w = scenario.writer(folder / "r.h5")
    folder.rename(memory / "elsewhere")
    w.append(scenario.block(0, 100))
    w.flush()
    assert "No such file" in str(w.problem)
    (memory / "elsewhere").rename(folder)
    w.close("finished")
    with open_run(folder / "r.h5") as dataset:
        assert dataset.sizes["step"] == 100


READ_ONLY = """
import os, sys
from pathlib import Path
from tests.torture import scenario
path = Path(sys.argv[1])
w = scenario.writer(path.parent.with_name("first.h5"))  # all that a writer imports, while this user may read it
w.append(scenario.block(0, 100)); w.flush()
w.close("finished")
if os.getuid() == 0:
    os.setuid(65534)
w = scenario.writer(path)
w.append(scenario.block(0, 100)); w.flush()
path.parent.chmod(0o500)
w.append(scenario.block(100, 100)); w.flush()
w.close("finished")
path.parent.chmod(0o700)
print(w.problem)
"""


def test_a_folder_made_read_only_under_the_writer(memory: Path) -> None:
    memory.chmod(0o755)
    folder = memory / "runs"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(folder / "r.h5")], capture_output=True, text=True, cwd=ROOT
    )
    assert "Permission denied" in done.stdout, done.stderr
    with open_run(folder / "r.h5") as dataset:
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 200))


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_two_ranks_on_one_path(memory: Path) -> None:
    path = memory / "r.h5"
    w = scenario.writer(path)
    code = "import sys; from pathlib import Path; from tests.torture import scenario; scenario.writer(Path(sys.argv[1])"
    for mode in ("create", "overwrite", "append"):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}, mode={mode!r})", str(path)], capture_output=True, text=True, cwd=ROOT
        )
        expected = "exists already" if mode == "create" else f"is being written by process {os.getpid()}"
        assert expected in done.stderr.splitlines()[-1]
    w.append(scenario.block(0, 300))
    w.close("finished")
    scenario.verify(path, 300)


def test_a_lock_of_another_host_counts_while_its_heart_beats(memory: Path) -> None:
    path = memory / "r.h5"
    scenario.writer(path).close("finished")
    lock = beside(path)
    lock.write_text('{"pid": 1, "host": "elsewhere", "born": "1"}')
    with pytest.raises(InputError, match="process 1 on elsewhere"):
        scenario.writer(path, mode="append", resume_step=0)
    os.utime(lock, (time.time() - 1000, time.time() - 1000))
    scenario.writer(path, mode="append", resume_step=0).close("finished")
    assert not lock.exists()


def test_a_fork_in_the_middle_of_writing_touches_nothing(memory: Path) -> None:
    """A child with a half full writer ends in every way there is; the parent's record is what it was."""
    path = memory / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 1100))
    w.flush()
    w.append(scenario.block(1100, 100))
    before = {left.name: left.read_bytes() for left in memory.iterdir()}
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                w.append(scenario.block(1200, 2000))
                w.event(0, "x", "y")
                w.tick()
                w.close("failed")
                del w
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert {left.name: left.read_bytes() for left in memory.iterdir()} == before
    w.close("finished")
    with open_run(path) as dataset:
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 1200))


def test_a_model_is_copied_and_pickled_under_a_recording(memory: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, memory / "r.h5", on_failure="ignore") as run:
        train(model, optimizer, 20, run)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            train(twin, torch.optim.SGD(twin.parameters(), lr=0.1), 5)
            del twin
        train(model, optimizer, 20, run)
    with open_run(memory / "r.h5") as dataset:
        assert dataset["step"].values.tolist() == list(range(40))


def test_an_unexpected_error_never_reaches_the_training(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = memory / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 300))
    w.flush()
    monkeypatch.setattr(w._in_memory, "write", lambda waiting: 1 / 0)
    w.append(scenario.block(300, 100))
    w.flush()
    assert "no longer written: ZeroDivisionError" in str(w.problem)
    w.append(scenario.block(400, 100))
    w.close("finished")
    assert scenario.verify(path, 300) == 300


@pytest.mark.thorough
def test_fuzzed_files_are_refused_in_one_line(memory: Path) -> None:
    """One file of each kind; crashes, hangs and memory are seen from outside, for a fork reads them."""
    found = fuzz.campaign(list(range(len(fuzz.MUTATED))), *records.good_and_crashed(memory))
    assert {finding.kind for finding in found} == set(fuzz.MUTATED)
    assert not [finding for finding in found if finding.bad]
    assert {finding.outcome for finding in found} == {"ok", "refused"}
