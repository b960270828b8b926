"""A machine without descriptors, a disk that turns read-only, a million of everything."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.store.storage import Storage
from tests.torture import scenario
from tests.torture.small_disk import NoSmallDisk, small_disk

STARVED = """
import os, resource, sys
from pathlib import Path
from gradscope_cli.main import run
from gradscope.store.reader import open_run
path = sys.argv[1]
for name in ("inspect", "diagnose"):
    run([name, path, "--json"])  # everything is imported
run(["recover", path, "-o", path + ".before"])
print("--- starved", file=sys.stderr, flush=True)
with open_run(path) as dataset:
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for spare in range(int(sys.argv[2])):
        os.close(held.pop())
    try:
        dataset["weight_norm"].values
    except ValueError as error:
        print(error, file=sys.stderr)
    codes = [run([name, path]) for name in ("inspect", "diagnose", "recover")]
print(codes)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_without_descriptors_it_is_the_machine_that_is_blamed(tmp_path: Path, spare: int) -> None:
    w = scenario.writer(tmp_path / "r.h5")
    w.append(scenario.block(0, 3000) | {"time": np.arange(3000.0), "epoch": np.zeros(3000, np.int32)})
    w.close("finished")
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(tmp_path / "r.h5"), str(spare)], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stderr.split("--- starved\n")[1]
    assert "Traceback" not in said
    assert "damaged" not in said
    assert "unexpected" not in said
    if spare == 0:
        assert done.stdout.splitlines()[-1] == "[2, 2, 2]"
        assert said.lower().count("too many open files") == 4


def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk") as folder:
            path = folder / "r.h5"
            w = scenario.writer(path)
            w.append(scenario.block(0, 100))
            w.flush()
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            w.append(scenario.block(100, 100))
            w.flush()
            assert w.problem is None or "ead-only" in w.problem
            with open_run(path) as dataset:
                rows = dataset.sizes["step"]
                assert rows >= 100
                np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, rows))
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            w.close("finished")
            with open_run(path) as dataset:
                np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 200))
    except (NoSmallDisk, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted or remounted here ({error}); a read-only disk was not provoked")


@pytest.mark.thorough
def test_many_rows_epochs_and_events_are_all_there(tmp_path: Path) -> None:
    """In numbers that took hours while every epoch was written by itself."""
    w = scenario.writer(tmp_path / "r.h5", storage=Storage())
    for start in range(0, 100_000, 500):
        w.append(scenario.block(start, 500))
        for k in range(start, start + 500):
            w.epoch(k, {"accuracy": k / 2} if k % 3 else {"accuracy": k / 2, "late": 1.0})
            w.event(k, "note", "x")
    w.epoch(7, {"accuracy": -1.0})  # once more
    w.close("finished")
    assert w.problem is None
    with open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 100_000
    found = Record(tmp_path / "r.h5").metrics
    assert found["epoch"].tolist() == list(range(100_000))
    expected = np.arange(100_000) / 2
    expected[7] = -1
    np.testing.assert_array_equal(found["accuracy"], expected)
    assert np.isnan(found["late"]).tolist() == (np.arange(100_000) % 3 > 0).tolist()
    assert len(Record(tmp_path / "r.h5").events) == 100_000


def test_more_names_than_a_record_holds_are_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.store.in_memory.MOST_COLUMNS", 40)
    w = scenario.writer(tmp_path / "r.h5")
    for start in (0, 10):
        names = {f"n{k}": np.ones(10, np.float32) for k in range(100)}
        w.append(scenario.block(start, 10) | names)
        w.flush()
    w.close("finished")
    assert w.problem is None
    with open_run(tmp_path / "r.h5") as dataset:
        assert len([v for v in dataset.variables.values() if v.dims[:1] == ("step",)]) == 40
    (told,) = [event["text"] for event in Record(tmp_path / "r.h5").events if event["kind"] == "warning"]
    assert told == "a record holds 40 names; n35 and those after it are not in it"


def test_nothing_of_this_is_left_open(tmp_path: Path) -> None:
    w = scenario.writer(tmp_path / "r.h5")
    w.append(scenario.block(0, 3000))
    w.close("finished")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        with open_run(tmp_path / "r.h5") as dataset:
            dataset.load()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
