"""Trials as Slurm jobs: how they are asked for, and what becomes of them. The contract is in test_executors.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gradscope import InputError
from gradscope.processes.worker import WorkerLostError
from gradscope.trials.executors import checked, open_executor
from gradscope.trials.slurm import FOLDER, JobOptions, SubmititExecutor
from tests.helpers import trials
from tests.helpers.paths import ROOT
from tests.helpers.waiting import gone, until

PATH = os.pathsep.join([str(ROOT), *filter(None, sys.path)])

#: A Slurm of one machine: jobs are processes, and accounting knows which of them are there.
SLURM = {
    "sbatch": """
cp "$1" {folder}/asked.sh
id=$$
SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 \\
    setsid bash "$1" > /dev/null 2>&1 &
echo $! > {folder}/$id
echo "Submitted batch job $id"
""",
    "srun": 'while [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done; exec "$@"',
    "sacct": """
echo "JobID|State|NodeList"
for id in "$@"; do
    [ -f {folder}/$id ] || continue
    if kill -0 $(cat {folder}/$id) 2> /dev/null; then echo "$id|RUNNING|here"; else echo "$id|FAILED|here"; fi
done
""",
    "scancel": "kill -TERM -- -$(cat {folder}/$1)",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Slurm of this machine, whose commands are found first."""
    pytest.importorskip("submitit")
    tools = tmp_path / "slurm"
    tools.mkdir()
    for name, code in SLURM.items():
        (tools / name).write_text("#!/bin/bash\n" + code.replace("{folder}", str(tools)))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", PATH)
    return tools


# -- spelling -------------------------------------------------------------------------------------


def test_spellings() -> None:
    assert JobOptions.parse("submitit") == JobOptions(FOLDER)
    given = JobOptions.parse("submitit:///shared/jobs?partition=gpu&timeout_min=240&mem_gb=7.5&slurm_exclusive=true")
    assert given.folder == "/shared/jobs" and given.cluster is None
    assert given.parameters == {
        "slurm_partition": "gpu", "timeout_min": 240, "mem_gb": 7.5, "slurm_exclusive": True,
    }  # fmt: skip
    assert JobOptions.parse("submitit://jobs?cluster=local") == JobOptions("jobs", "local")
    texts = JobOptions.parse("submitit?account=00123&comment=1e3&constraint=1_000&qos=inf").parameters
    assert list(texts.values()) == ["00123", "1e3", "1_000", "inf"]  # numbers are only what is written as one
    assert JobOptions.parse("submitit?partition=a") == JobOptions(FOLDER, None, {"slurm_partition": "a"})


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("submitit:jobs", "expected submitit or submitit://FOLDER"),
        ("submitit://jobs?partition", "after [?] expected NAME=VALUE"),
        ("submitit://jobs?timeout_min=", "after [?] expected NAME=VALUE"),
        ("submitit://jobs?cluster=pbs", "cluster=pbs; expected slurm or local"),
        ("submitit://jobs?nodes=2", "nodes; a trial is one process of one job"),
    ],
)
def test_spellings_that_are_wrong(spelled: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked(spelled)


def test_submitit_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"submitit needs the package .* pip install 'gradscope-dynamics\[slurm\]'"):
        open_executor("submitit://jobs?timeout_min=5", 1, None)


def test_what_submitit_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(InputError, match="a job needs a time limit: give timeout, or timeout_min=MINUTES"):
        open_executor(f"submitit://{tmp_path}?cluster=local", 1, None)
    with pytest.raises(InputError, match=r"does not take what the executor says: .*'partitoin'"):
        open_executor(f"submitit://{tmp_path}?cluster=local&partitoin=gpu", 1, 60)
    with pytest.raises(InputError, match="timeout_min is 1h; expected a whole number of minutes"):
        open_executor(f"submitit://{tmp_path}?cluster=local&timeout_min=1h", 1, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for cluster in ("", "&cluster=slurm"):
        with pytest.raises(InputError, match="submitit finds no Slurm"):
            open_executor(f"submitit://{tmp_path}?timeout_min=5{cluster}", 1, None)


# -- jobs -----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_job_of_slurm(slurm: Path, tmp_path: Path) -> None:
    """It asks for what was said, answers, can be cancelled, and is missed when it is killed."""
    name = f"submitit://{tmp_path / 'jobs'}?partition=gpu&timeout_min=30&gpus_per_node=1"
    executor, count = open_executor(name, 2, None)
    assert count == 2
    with executor:
        assert executor.submit(trials.answer, 7).result() == 7
        asked = (slurm / "asked.sh").read_text()
        for line in ("--partition=gpu", "--time=30", "--gpus-per-node=1"):
            assert f"#SBATCH {line}\n" in asked
        future = executor.submit(trials.pid_then_sleep, tmp_path / "pid")
        until((tmp_path / "pid").exists)
        assert future.cancel()
        until(lambda: gone(int((tmp_path / "pid").read_text())))


@pytest.mark.thorough
def test_a_job_that_is_killed_is_missed(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.trials.slurm.ASK", 0.5)
    with SubmititExecutor(JobOptions(str(tmp_path / "jobs"), "slurm", {"timeout_min": 5})) as executor:
        future = executor.submit(trials.pid_then_sleep, tmp_path / "pid")
        until((tmp_path / "pid").exists)
        job = next(int(file.read_text()) for file in slurm.iterdir() if file.name.isdigit())
        os.killpg(job, 9)
        with pytest.raises(WorkerLostError, match=r"ended without an answer .*state FAILED"):
            future.result()
        until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_a_job_that_is_refused(slurm: Path, tmp_path: Path) -> None:
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: gpx' >&2; exit 1\n")
    with (
        SubmititExecutor(JobOptions(str(tmp_path / "jobs"), "slurm", {"timeout_min": 5})) as executor,
        pytest.raises(InputError, match="the cluster took no job: sbatch: error: invalid partition"),
    ):
        executor.submit(trials.answer, 1).result()


@pytest.mark.thorough
def test_jobs_end_with_a_search_that_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    code = (
        "import sys; from pathlib import Path; from gradscope.trials.slurm import JobOptions, SubmititExecutor; "
        "from tests.helpers import trials; "
        "executor = SubmititExecutor(JobOptions(sys.argv[1], 'local', {'timeout_min': 5}), beat=0.2); "
        "executor.submit(trials.pid_then_sleep, Path(sys.argv[2])).result()"
    )
    note = tmp_path / "pid"
    words = [sys.executable, "-c", code, str(tmp_path / "jobs"), str(note)]
    search = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": PATH})
    until(note.exists)
    time.sleep(3)  # longer than a job's patience: the search is heard
    assert not gone(int(note.read_text()))
    search.kill()
    search.wait()
    until(lambda: gone(int(note.read_text())))


@pytest.mark.thorough
def test_a_job_that_cannot_be_asked_about_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call fails, and nobody waits for it any more."""
    pytest.importorskip("submitit")
    executor, _ = open_executor(f"submitit://{tmp_path / 'jobs'}?cluster=local", 1, 300)
    with executor:
        future = executor.submit(trials.pid_then_sleep, tmp_path / "pid")
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())

        jobs = []

        def away(job: Any, ask: bool) -> bool:
            jobs.append(job)
            raise OSError("the scheduler does not answer")

        monkeypatch.setattr(executor, "_done", away)
        with pytest.raises(OSError, match="does not answer"):
            future.result(120)
        until(lambda: gone(int((tmp_path / "pid").read_text())))
        until(lambda: jobs[0].done(force_check=True))
        assert not list((tmp_path / "jobs").glob("*.stop"))
