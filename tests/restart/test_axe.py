"""Runs and searches while their folder goes, their files are deleted, their processes are ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradscope_cli.main import run as command

from tests.helpers.supervised import PLAIN, PYTHON, alive, supervised, until

#: A training that runs until it is ended.
BODY = "time.sleep(600)"


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """Where the training writes its number; ended if it is still there."""
    path = tmp_path / "marker"
    yield path
    if path.exists() and alive(path):
        os.kill(int(path.read_text()), signal.SIGKILL)


def training(marker: Path) -> tuple[str, ...]:
    return PYTHON, "-c", PLAIN.format(marker=str(marker), body=BODY)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_folder_that_goes_is_told_in_one_line(tmp_path: Path, marker: Path, how: str) -> None:
    out = tmp_path / "out"
    process = supervised(out, *training(marker))
    until(lambda: marker.exists() and marker.read_text(), process)
    if how == "removed":
        shutil.rmtree(out)
    else:
        out.rename(tmp_path / "elsewhere")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith(
        f"gradscope: the folder {out} was removed or renamed while its training ran"
    )
    assert len(said.splitlines()) == 2  # and the line that the attempt has begun
    assert not alive(marker)
    assert not out.exists()


@pytest.mark.thorough
@pytest.mark.parametrize("deleted", ["run.json", "attempt-1.alive", "both"])
def test_what_is_deleted_beside_a_living_training_starts_no_second_one(
    tmp_path: Path, marker: Path, deleted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = supervised(out, *training(marker))
    until(lambda: marker.exists() and marker.read_text(), first)
    first.kill()
    first.communicate()
    pid = marker.read_text()
    assert alive(marker)
    for name in ("run.json", "attempt-1.alive") if deleted == "both" else (deleted,):
        (out / name).unlink()
    if deleted == "attempt-1.alive":
        second = supervised(out, *training(marker))
        assert second.stderr is not None
        assert f"is still running (process {pid}); waiting for it" in second.stderr.readline()
        until(lambda: listens(second.pid), second)
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=120)
        assert not alive(marker)
    else:
        assert command(["run", "--out", str(out), "--", *training(marker)]) == 2
        assert "a training is still running in" in capsys.readouterr().err
        assert alive(marker)
    assert marker.read_text() == pid
    assert not list(out.glob("attempt-1-again*"))


def listens(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM of its own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


SEARCH = "search --low 1e-3 --high 1 --workers 2 --out {out} --"


def deaf(folder: Path, forked: bool) -> tuple[list[str], Path]:
    """A training that does not listen, ``forked``: from a warm process; and where each writes its number."""
    marks = folder / "marks"
    marks.mkdir()
    body = (
        "import os, pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(marks)!r}, str(os.getpid())).write_text(str(os.getpid())); time.sleep(600)"
    )
    if not forked:
        return [PYTHON, "-c", body], marks
    (folder / "deaf.py").write_text(body)
    return [PYTHON, str(folder / "deaf.py")], marks


def left(temporary: Path) -> list[str]:
    """Processes that were told to put their temporary files there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={temporary}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.fixture(params=["short", "long"])
def temporary(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for temporary files; in a long one there is no room for the address of a socket."""
    with tempfile.TemporaryDirectory(prefix="" if request.param == "short" else "t" * 100, dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.thorough
@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGSTOP, signal.SIGKILL)])
def test_a_search_that_is_ended_leaves_no_traceback_and_no_orphan(
    tmp_path: Path, temporary: Path, signals: tuple[int, ...], forked: bool
) -> None:
    """Its trials do not listen, either."""
    command, marks = deaf(tmp_path, forked)
    with (tmp_path / "log").open("wb") as log:
        search = subprocess.Popen(
            [PYTHON, "-m", "gradscope_cli.main", *SEARCH.format(out=tmp_path / "s").split(), *command],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )  # fmt: skip
        until(lambda: sum(bool(mark.read_text()) for mark in marks.iterdir()) == 2, search)
        began = [mark for mark in marks.iterdir() if mark.read_text()]
        assert len(began) == 2, (tmp_path / "log").read_text()
        for number in signals:
            search.send_signal(number)
        search.wait(60)
        ended = time.monotonic()
        while any(alive(mark) for mark in began) and time.monotonic() < ended + 60:
            time.sleep(0.02)
        took = time.monotonic() - ended
        print(f"the trials ended {took:.2f} s after their search")
        assert not any(alive(mark) for mark in began)
    deadline = time.monotonic() + 60
    while left(temporary) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left(temporary) == []
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "Error" not in said


@pytest.mark.thorough
@pytest.mark.parametrize("forked", [True, False])
def test_a_search_that_is_interrupted_twice_says_so_once(tmp_path: Path, forked: bool) -> None:
    command, marks = deaf(tmp_path, forked)
    search = subprocess.Popen(
        [sys.executable, "-m", "gradscope_cli.main", *SEARCH.format(out=tmp_path / "s").split(), *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    until(lambda: sum(bool(mark.read_text()) for mark in marks.iterdir()) == 2, search)
    search.send_signal(signal.SIGINT)
    time.sleep(1.0)
    search.send_signal(signal.SIGINT)
    _, said = search.communicate(timeout=120)
    assert search.returncode == 130
    assert said.strip() == "gradscope: interrupted"
    until(lambda: not any(alive(mark) for mark in marks.iterdir()), search)
    deadline = time.monotonic() + 60
    while any(alive(mark) for mark in marks.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(mark) for mark in marks.iterdir())
