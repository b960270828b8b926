"""gradscope run: killed at any moment it goes on; signals, limits, crashes and checkpoints of a real child."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from gradscope_cli.main import run

import gradscope
from gradscope.processes.instructions import Instructions
from gradscope.restart.attempt import Attempt
from gradscope.restart.history import History
from gradscope.restart.resumption import resumption
from gradscope.types import InputError
from tests.helpers.attempts import attempt
from tests.helpers.paths import SCRIPTS
from tests.helpers.supervised import PLAIN, PYTHON, alive, supervised, until

SCRIPT = str(SCRIPTS / "unseen.py")
CHECKPOINTED = str(SCRIPTS / "checkpointed.py")


def status(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text()))


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_child_and_the_history(tmp_path: Path, number: int) -> None:
    marker, out = tmp_path / "pid", tmp_path / "o"
    body = "signal.signal(signal.SIGUSR1, lambda *_: print('saved on request')); [time.sleep(0.1) for _ in range(600)]"
    process = supervised(out, PYTHON, "-c", PLAIN.format(marker=str(marker), body=body))
    until(lambda: marker.exists() and marker.read_text(), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    until(lambda: "saved" in (out / "attempt-1.log").read_text(), process)
    assert process.poll() is None, "a signal between the user and the script ends nothing"
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    assert "saved on request" in said
    assert "Traceback" not in said.replace('Traceback (most recent call last):\n  File "<string>"', "")
    assert not alive(marker)
    assert status(out)["status"] == "interrupted"


@pytest.mark.thorough
def test_a_shell_around_the_training_leaves_nothing_behind(tmp_path: Path) -> None:
    marker, out = tmp_path / "pid", tmp_path / "o"
    program = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(90)"
    script = f"{shlex.quote(PYTHON)} -c {shlex.quote(program)}; true"
    process = supervised(out, "sh", "-c", script)
    until(lambda: marker.exists() and marker.read_text(), process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not alive(marker)


@pytest.mark.thorough
def test_the_output_is_shown_as_it_comes(tmp_path: Path) -> None:
    """Without a flush in the script, and before it ends."""
    body = "print('first words'); time.sleep(90)"
    process = supervised(tmp_path / "o", PYTHON, "-c", PLAIN.format(marker=str(tmp_path / "pid"), body=body))
    assert process.stderr is not None
    assert any("first words" in process.stderr.readline() for _ in range(5))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_the_time_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path / "o"), "--time-limit", "0.5", "--", "sleep", "60"]
    assert run(["run", *words]) == 0
    assert "time limit: the time limit ended it" in capsys.readouterr().out
    assert status(tmp_path / "o")["status"] == "time limit"
    assert run(["run", "--time-limit", "-1", "--", "sleep", "1"]) == 2
    assert "the time limit is -1 s; expected more than 0" in capsys.readouterr().err


def test_a_crash_is_no_learning_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--out", str(tmp_path / "o"), "--", "sh", "-c", "echo out of memory >&2; exit 9"]
    for _ in range(2):  # the same call tries again
        assert run(words) == 2
        assert "exited with code 9: out of memory" in capsys.readouterr().err
    assert status(tmp_path / "o")["status"] == "crashed"
    assert run(["run", "--out", str(tmp_path / "p"), "--", "sh", "-c", "kill -9 $$"]) == 2
    assert "was killed by signal 9" in capsys.readouterr().err


def test_another_call_in_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o"
    assert run(["run", "--out", str(out), "--", "false"]) == 2
    capsys.readouterr()
    assert run(["run", "--out", str(out), "--seed", "4", "--", "false"]) == 2
    assert "already holds a run with seed 0, and this one has 4" in capsys.readouterr().err
    assert run(["run", "--out", str(out), "--", "true"]) == 2
    assert "with command false, and this one has true" in capsys.readouterr().err
    with History(out, {}).alone():
        assert run(["run", "--out", str(out), "--", "false"]) == 2
    assert "another gradscope is at work" in capsys.readouterr().err


def test_a_history_is_whole_at_any_moment(tmp_path: Path) -> None:
    history = History(tmp_path, {"command": ["x"], "policy": "p"})
    history.begin({"path": "attempt-1.h5", "ended": "running"})
    (tmp_path / "run.json.new").write_text('{"torn')  # killed while writing
    assert History(tmp_path, {"command": ["x"], "policy": "p"}).under_way == {
        "path": "attempt-1.h5",
        "ended": "running",
    }
    told = attempt("collapsed", "delayed:auto", active=3)
    history.end(told)
    again = History(tmp_path, {"command": ["x"], "policy": "p"})
    assert again.attempts == [told]
    assert again.under_way is None
    assert Attempt.from_dict(json.loads(json.dumps(told.as_dict()))) == told
    history.close("failed", "no luck")
    with pytest.raises(InputError, match=r"which is over \(failed: no luck\); give another folder"):
        History(tmp_path, {"command": ["x"], "policy": "p"})


def kill_and_go_on(out: Path, moments: list[float]) -> tuple[dict[str, Any], list[str]]:
    """Supervisors of the same call, each killed after so many seconds; the last one is left to its end."""
    words = (PYTHON, SCRIPT, "--epochs", "6")
    options = ("--strength", "0.05", "--seed", "3")
    said = []
    for moment in moments:
        process = supervised(out, *words, options=options)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            said.append(process.communicate()[1])
        if (out / "run.json").exists():
            status(out)  # whole
    process = supervised(out, *words, options=options)
    _, last = process.communicate(timeout=300)
    assert process.returncode in (0, 2, 4), last  # 4: six epochs may end before the delayed penalty comes on
    return status(out), [*said, last]


def assert_the_same_story(found: dict[str, Any], out: Path, expected: dict[str, Any]) -> None:
    assert found["status"] == expected["status"]
    names = ("schedule", "verdict", "stopped_step", "steps", "switched_on", "onset_step", "decided_step")
    for a, b in zip(found["attempts"], expected["attempts"], strict=True):
        assert [a[n] for n in names] == [b[n] for n in names]
        with gradscope.open_run(a["path"]) as one, gradscope.open_run(b["path"]) as two:
            assert one["weight_norm"].equals(two["weight_norm"]), "bit for bit the training of a run that nobody killed"
    assert len(list(out.glob("attempt-*.h5"))) == 2, "nothing was trained twice: the child outlives its supervisor"


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Twenty histories, each of a supervisor killed three times at random."""
    expected, _ = kill_and_go_on(tmp_path / "whole", [])
    assert expected["attempts"][0]["verdict"] == "collapsed"
    dice = random.Random(1)
    for number in range(20):
        out = tmp_path / f"killed-{number}"
        found, _ = kill_and_go_on(out, [dice.uniform(0.2, 9) for _ in range(3)])
        assert_the_same_story(found, out, expected)


@pytest.mark.thorough
def test_killed_in_the_middle_of_an_attempt(tmp_path: Path) -> None:
    """The child goes on; the same call waits for it, and restarts it as if nothing had been."""
    out, go = tmp_path / "o", tmp_path / "go"
    words = (
        "sh",
        "-c",
        f"while [ ! -e {shlex.quote(str(go))} ]; do sleep 0.1; done; "
        f"exec {shlex.quote(PYTHON)} {shlex.quote(str(SCRIPT))} --epochs 4",
    )
    options = ("--strength", "0.05", "--restart", "none")
    process = supervised(out, *words, options=options)
    until(lambda: (out / "run.json").exists() and "pid" in (out / "run.json").read_text(), process)
    process.kill()
    process.communicate()
    process = supervised(out, *words, options=options)
    assert process.stderr is not None
    assert "attempt 1 of an earlier call is still running (process " in process.stderr.readline()
    go.touch()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3, said
    (only,) = status(out)["attempts"]
    assert only["verdict"] == "collapsed"
    assert only["stopped_step"] == only["steps"]
    assert [path.name for path in out.glob("*.h5")] == ["attempt-1.h5"]


@pytest.mark.thorough
def test_a_restart_from_the_last_healthy_checkpoint(tmp_path: Path) -> None:
    """The script's own delay of two epochs ends too early; its checkpoint from before that is where it goes on."""
    out = tmp_path / "o"
    process = supervised(out, PYTHON, CHECKPOINTED, options=("--restart-from", "checkpoint"))
    _, said = process.communicate(timeout=300)
    first, second = status(out)["attempts"]
    assert first["first_step"] == 0
    assert 0 < second["first_step"] <= first["onset_step"], said
    assert f"from the checkpoint of step {second['first_step']}" in said
    assert second["ended"] == ("stopped" if process.returncode == 3 else "itself")
    with gradscope.open_run(second["path"]) as whole, gradscope.open_run(first["path"]) as failed:
        assert whole["step"].values.tolist() == list(range(second["steps"]))
        count = second["first_step"] + 1  # the first row after the restart holds the weights of the checkpoint
        assert (whole["weight_norm"].values[:count] == failed["weight_norm"].values[:count]).all()
        assert (whole["loss"].values[:count] == failed["loss"].values[:count]).all(), "the same batches as well"
    assert list(out.glob("*.stopped.pt")), "the callback is called before a run is ended"


@pytest.mark.slow
def test_a_script_that_does_not_take_its_checkpoint_back(tmp_path: Path) -> None:
    process = supervised(tmp_path / "o", PYTHON, CHECKPOINTED, "--forgets", options=("--restart-from", "checkpoint"))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "was to go on from" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_without_a_healthy_checkpoint_it_starts_from_the_beginning(tmp_path: Path) -> None:
    assert resumption(attempt("collapsed"), tmp_path / "attempt-2.h5") is None
    assert Instructions(resume_step=3, resume="x").environment() == {
        "GRADSCOPE_RESUME": "x",
        "GRADSCOPE_RESUME_STEP": "3",
    }
    with pytest.raises(InputError, match="GRADSCOPE_RESUME_STEP is 'x'; expected a whole number"):
        Instructions.from_environment({"GRADSCOPE_RESUME_STEP": "x"})
