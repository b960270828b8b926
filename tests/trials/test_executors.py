"""One contract for every executor that a search runs its trials on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from gradscope import InputError
from gradscope.processes.worker import WorkerLostError
from gradscope.trials.executors import checked, open_executor
from gradscope.trials.local import LocalExecutor, devices_here
from tests.helpers import trials
from tests.helpers.paths import ROOT, SCRIPTS
from tests.helpers.waiting import gone, until

PYTHON = sys.executable


class Cluster:
    """A Dask scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        log = self._start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        until(lambda: b"Scheduler at" in log.read_bytes())
        found = re.search(rb"tcp://([\d.]+:\d+)", log.read_bytes())
        assert found is not None
        self.address = found[1].decode()
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            self.add_worker()

    def add_worker(self) -> None:
        name = f"worker-{len(self.processes)}"
        log = self._start(
            name, "worker", f"tcp://{self.address}", "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--local-directory", str(self.folder),
        )  # fmt: skip
        self.workers.append(self.processes[-1])
        until(lambda: b"Registered to" in log.read_bytes())

    def _start(self, name: str, *words: str) -> Path:
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [PYTHON, "-m", "distributed.cli.dask_" + words[0], *words[1:]], stdout=file, stderr=file
            )
        self.processes.append(process)
        return log

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    yield made
    made.stop()


#: Seconds after which the executors of the contract end a call.
LIMIT = 8.0


@pytest.fixture(params=["local", "warm", "submitit", pytest.param("dask", marks=pytest.mark.slow)])
def executor(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Executor]:
    name = f"dask://{request.getfixturevalue('cluster').address}" if request.param == "dask" else "local"
    if request.param == "submitit":  # its own twin of Slurm: processes of this machine
        pytest.importorskip("submitit")
        name = f"submitit://{tmp_path_factory.mktemp('jobs')}?cluster=local"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    made, count = open_executor(name, 2, LIMIT, scripts=request.param == "warm")
    assert count == 2
    yield made
    made.shutdown(wait=True, cancel_futures=True)


# -- the contract ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_results_come_out_of_order(executor: Executor) -> None:
    slow = executor.submit(trials.answer, 1, 3.0)
    quick = executor.submit(trials.answer, 2)
    assert [future.result() for future in as_completed([slow, quick])] == [2, 1]


@pytest.mark.thorough
def test_what_a_trial_raises_arrives(executor: Executor) -> None:
    with pytest.raises(ArithmeticError, match="no such luck"):
        executor.submit(trials.failing, "no such luck").result()
    with pytest.raises(RuntimeError, match="Awkward: awkward"):
        executor.submit(trials.failing_awkwardly).result()
    assert executor.submit(trials.answer, 3).result() == 3


@pytest.mark.thorough
def test_a_killed_trial_costs_that_trial_alone(executor: Executor) -> None:
    other = executor.submit(trials.answer, 1, 1.0)
    with pytest.raises(WorkerLostError, match="killed by signal 9"):
        executor.submit(trials.killed).result()
    assert other.result() == 1


@pytest.mark.thorough
def test_a_trial_that_hangs_is_stopped(executor: Executor, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(WorkerLostError, match="not over after 8 s"):
        executor.submit(trials.pid_then_sleep, note).result()
    assert gone(int(note.read_text()))
    assert executor.submit(trials.answer, 4).result() == 4


@pytest.mark.thorough
def test_a_running_trial_can_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    future = executor.submit(trials.pid_then_sleep, note)
    until(note.exists)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    pid = int(note.read_text())
    until(lambda: gone(pid))
    assert executor.submit(trials.answer, 5).result() == 5


@pytest.mark.thorough
def test_what_a_trial_has_started_ends_with_it(executor: Executor, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    future = executor.submit(trials.deaf_grandchild, note)
    until(note.exists)
    assert future.cancel()
    pid = int(note.read_text())
    until(lambda: gone(pid))


@pytest.mark.thorough
def test_what_waits_can_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    """Also with all slots taken; it never starts."""
    busy = [executor.submit(trials.answer, k, 1.0) for k in range(2)]
    waiting = [executor.submit(trials.pid_then_sleep, tmp_path / f"{k}") for k in range(3)]
    assert all(future.cancel() for future in waiting)
    assert [future.result() for future in busy] == [0, 1]
    assert executor.submit(trials.answer, 6).result() == 6
    assert not list(tmp_path.iterdir())


def test_a_call_that_cannot_travel_is_refused(executor: Executor) -> None:
    with pytest.raises(InputError, match="give a function of a module"):
        executor.submit(lambda: 1)


# -- one machine ----------------------------------------------------------------------------------


def test_a_slot_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADSCOPE_PROBE", "yes")
    monkeypatch.chdir(tmp_path)
    with LocalExecutor(2, devices=["3", "GPU-5f"]) as executor:
        found = [future.result() for future in [executor.submit(trials.surroundings) for _ in range(2)]]
    assert {device for device, *_ in found} == {"3", "GPU-5f"}
    assert {rest[1:3] for rest in found} == {("yes", str(tmp_path))}
    assert len({pid for *_, pid in found} | {os.getpid()}) == 3


def test_devices_are_those_that_the_user_left_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-1")
    assert devices_here() == ["2", "GPU-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices_here() == []


ORPHAN = """
import sys
from pathlib import Path
from gradscope.trials.local import LocalExecutor
from tests.helpers import trials

if __name__ == "__main__":
    executor = LocalExecutor(2)
    executor.submit(trials.deaf_grandchild, Path(sys.argv[2]))
    executor.submit(trials.writes_on, Path(sys.argv[1])).result()
"""


def test_a_trial_does_not_outlive_a_killed_search(tmp_path: Path) -> None:
    """Nor does what it has started, be it deaf to SIGTERM."""
    script, note, deaf = tmp_path / "orphan.py", tmp_path / "note", tmp_path / "deaf"
    script.write_text(ORPHAN)
    root = str(ROOT)
    path = os.pathsep.join([root, *sys.path])
    search = subprocess.Popen([PYTHON, str(script), str(note), str(deaf)], env={**os.environ, "PYTHONPATH": path})
    until(lambda: note.exists() and deaf.exists())
    search.kill()
    search.wait()

    def still() -> bool:
        before = note.read_text()
        time.sleep(0.5)
        return note.read_text() == before

    until(still)
    until(lambda: gone(int(deaf.read_text())))


FORKED = """
import os
import torch
from gradscope.trials.local import LocalExecutor
from tests.helpers import trials
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "3"
    with LocalExecutor(1) as executor:
        print(executor.submit(trials.threads).result())
"""


@pytest.mark.thorough
def test_a_trial_of_a_torch_that_was_there_takes_its_share_of_the_cores(tmp_path: Path) -> None:
    """The fork server imports the script, and with it torch, which reads the variable once, when it is imported."""
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run([PYTHON, str(script)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


WARM = """
import os
from gradscope.trials.local import RECORDING, LocalExecutor
from tests.helpers import trials

if __name__ == "__main__":
    with LocalExecutor(1, devices=(), preload=RECORDING) as pool:
        print(*pool.submit(trials.loaded, "torch._dynamo", "gradscope.recorder.kernels.host_units").result())
    import numpy, scipy.linalg, torch
    known = len(os.listdir("/proc/self/task"))
    import gradscope.recorder.preload
    print(len(os.listdir("/proc/self/task")) - known)
"""


@pytest.mark.thorough
def test_a_trial_has_what_its_recording_would_load(tmp_path: Path) -> None:
    """And what it was forked from has no threads beyond those of numpy, SciPy (which numba loads) and torch themselves.

    Theirs are pools of OpenBLAS, which end before a fork and begin again after it.
    """
    script = tmp_path / "script.py"
    script.write_text(WARM)
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run([PYTHON, str(script)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.split() == ["torch._dynamo", "gradscope.recorder.kernels.host_units", "0"], done.stderr


# -- a cluster ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dask_worker_killed_in_mid_trial(cluster: Cluster, tmp_path: Path) -> None:
    """Dask runs the trial again on the worker that is left; the killed worker's own trial process ends."""
    executor, _ = open_executor(f"dask://{cluster.address}", None, None)
    victims = [executor.submit(trials.pid_then_sleep, tmp_path / f"{k}") for k in range(2)]
    for k in range(2):
        until((tmp_path / f"{k}").exists)
    pids = [int((tmp_path / f"{k}").read_text()) for k in range(2)]
    cluster.workers[0].kill()
    cluster.workers.pop(0).wait()
    until(lambda: any(gone(pid) for pid in pids))
    for future in victims:
        future.cancel()
    until(lambda: all(gone(pid) for pid in pids))
    cluster.add_worker()
    assert executor.submit(trials.answer, 7).result() == 7
    executor.shutdown(cancel_futures=True)


@pytest.mark.slow
def test_a_search_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """With a worker killed in mid-search; and its trials end with a search that is killed."""
    script = str(SCRIPTS / "unseen.py")
    out = tmp_path / "level"
    words = [
        "search", "--low", "1e-3", "--high", "1", "--executor", f"dask://{cluster.address}", "--max-trials", "6",
        "--json", "--out", str(out), "--", PYTHON, script,
    ]  # fmt: skip
    search = subprocess.Popen([PYTHON, "-m", "gradscope_cli.main", *words], stdout=subprocess.PIPE)
    journal = out / "search.jsonl"
    until(lambda: search.poll() is not None or (journal.exists() and '"trial"' in journal.read_text()))
    cluster.workers[0].kill()
    cluster.workers.pop(0).wait()
    printed, _ = search.communicate(timeout=500)
    assert search.returncode == 0
    assert b'"trials": 6' in printed
    cluster.add_worker()


@pytest.mark.slow
def test_a_killed_search_leaves_nothing_running_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gradscope.trials.executors import open_executor; "
        "from tests.helpers import trials; executor, _ = open_executor(sys.argv[1], 1, None); "
        "executor.submit(trials.pid_then_sleep, Path(sys.argv[2])).result()"
    )
    note = tmp_path / "pid"
    search = subprocess.Popen([PYTHON, "-c", code, f"dask://{cluster.address}", str(note)])
    until(note.exists)
    search.kill()
    search.wait()
    until(lambda: gone(int(note.read_text())))


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slurm", "dask://", "dask://host", "dask://host:port", "dask://:8786", "localhost"])
def test_an_executor_that_there_is_not(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"executor is {name!r}; expected local, dask://HOST:PORT")):
        checked(name)


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.trials.cluster.PATIENCE", 1)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at 127\.0\.0\.1:1 "):
        open_executor("dask://127.0.0.1:1", 1, None)


def test_dask_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'gradscope-dynamics\[dask\]'"):
        open_executor("dask://127.0.0.1:1", 1, None)


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="timeout is -1; expected seconds above 0"):
        open_executor("local", 1, -1.0)
    with pytest.raises(InputError, match="workers is 0"):
        open_executor("local", 0, None)
    with ThreadPoolExecutor(1) as given, pytest.raises(InputError, match="in the executor that you give"):
        open_executor(given, 1, 3.0)
    with LocalExecutor(1) as executor, pytest.raises(InputError, match="no keyword arguments"):
        executor.submit(trials.answer, value=1)
