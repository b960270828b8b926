"""The live view: what a frame says, how it is drawn, and that it follows a training process that runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import termios
import time
import urllib.error
import urllib.request
from dataclasses import replace
from html import unescape
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from gradscope_cli.main import run
from rich.console import Console

from gradscope.report.live.follower import Follower, run_now
from gradscope.report.live.frame import Frame
from gradscope.report.live.keys import Keys
from gradscope.report.live.terminal import _scrolled, drawn, looks, plain
from gradscope.report.live.underflow import SMALLEST, Underflow, duration, steps_left
from gradscope.report.live.web import served
from gradscope.types import InputError
from tests.helpers.growing_record import open_writer, rows
from tests.helpers.handmade import handmade
from tests.helpers.terminals import WATCH, Terminal, training


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade(tmp_path_factory.mktemp("watch") / "run.h5", 6, 2000)


@pytest.fixture(scope="module")
def shown(record: Path) -> Frame:
    return run_now(record)


# -- what a frame says ------------------------------------------------------------------------------


def test_time_to_underflow_is_where_the_line_ends() -> None:
    at = np.arange(100.0) * 10
    falling = np.exp(-0.01 * at)
    level = np.full(100, 0.5)
    noisy = level * np.exp(0.1 * np.random.default_rng(0).standard_normal(100))
    values = np.stack([falling, level, noisy, falling[::-1], np.where(at > 500, 0, falling)], axis=1)
    steps = steps_left(at, values)
    assert steps[0] == pytest.approx(-np.log(SMALLEST) / 0.01 - 990, rel=1e-6)
    assert list(steps[1:]) == [np.inf, np.inf, np.inf, 0.0]
    assert list(steps_left(at[:7], values[:7])) == [np.inf] * 5  # too few windows to say


def test_underflow_in_words() -> None:
    said = Underflow("a", "gradient", 1234.5, 60.0).sentence
    assert "mean |∂L/∂w| of a reaches float32's smallest normal number (1.2e-38) in about 1,234 steps, 60 s" in said
    assert "last quarter" in said
    assert "is below" in Underflow("a", "weight", 0.0, None).sentence
    assert [duration(s) for s in (59, 600, 36000, 864000)] == ["59 s", "10 min", "10 h", "10 days"]


def test_a_frame_of_a_finished_run(shown: Frame) -> None:
    assert shown.verdict == "collapsed"
    assert shown.status == "finished"
    assert shown.step == 1999
    assert shown.steps_per_second == pytest.approx(100, rel=1e-6)
    assert shown.seconds_left is None
    assert [w.name for w in shown.worst] == [f"blocks.{i}.weight" for i in (5, 4, 3, 2, 1)]
    assert shown.worst[0].gradient_left < 1e-20
    assert shown.underflow is not None
    assert shown.underflow.layer == "blocks.5.weight"
    # ln g falls by 60 over 2,000 steps and ends near ln(1e-3) − 60.
    assert shown.underflow.steps == pytest.approx((np.log(1e-3) - 60 - np.log(SMALLEST)) / 0.03, rel=0.05)
    assert shown.events[-1].kind == "strength"
    assert json.loads(json.dumps(shown.as_dict()))["lines"]["loss"] == pytest.approx(2.3)


# -- how it is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_no_line_is_wider_than_the_terminal(shown: Frame, width: int) -> None:
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(drawn(shown, width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("▁" in line for line in lines)
    assert "COLLAPSED" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_findings_stand_under_the_verdict_and_a_long_view_scrolls(shown: Frame) -> None:
    long = replace(shown, findings=tuple(f"dead_units: number {i}" for i in range(30)))
    out = StringIO()
    console, keys = Console(file=out, width=80, height=24, highlight=False), Keys()
    console.print(_scrolled(console, drawn(long, 80), keys))
    first = out.getvalue().splitlines()
    assert len(first) <= 23
    assert "rule: dead_units: number 0" in first
    assert first[-1].startswith("0 lines above, ")
    keys.press(b"\x1b[6~jj\x1b[A?")  # a page, two lines down, one up, and a key that means nothing
    assert keys.top == 11
    keys.press(b" " * 50)
    console.print(_scrolled(console, drawn(long, 80), keys))
    last = out.getvalue().splitlines()[len(first) :]
    assert len(last) <= 23
    assert last[-1].endswith(" 0 below")
    keys.press(b"k" * 200)
    assert keys.top == 0


def test_keys_are_read_from_a_terminal_which_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "wb", buffering=0) as keyboard:
        before = termios.tcgetattr(terminal)
        monkeypatch.setattr("sys.stdin", terminal)
        with Keys() as keys:
            assert keys.read
            keyboard.write(b"jj")
            keys.wait(60)
            assert keys.top > 0
            keys.wait(0)
        assert termios.tcgetattr(terminal) == before
    monkeypatch.setattr("sys.stdin", StringIO())
    with Keys() as keys:
        assert not keys.read
        keys.wait(0)


def test_a_record_cannot_command_the_terminal(tmp_path: Path) -> None:
    out = StringIO()
    hostile = handmade(tmp_path / "run.h5", 2, 300, prefix="\x1b[2J\x07[red]")
    Console(file=out, width=80, highlight=False).print(drawn(run_now(hostile), 80))
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "[red]" in out.getvalue()  # no markup either
    assert plain("a\x1bb\n") == "a�b�"


# -- following --------------------------------------------------------------------------------------


def until(follower: Follower, steps: int) -> Frame:
    from gradscope.report.live.frame import frame

    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        found = follower.run()
        if found and found[0].rows >= steps:
            return frame(*found, over=follower.over)
        time.sleep(0.02)
    raise AssertionError("nothing came")


def test_it_waits_for_the_file_follows_it_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with Follower(path) as follower:
        assert follower.run() is None
        writer = open_writer(path)
        writer.append(rows(0, 100))
        writer.flush()
        seen = until(follower, 100)
        assert (seen.status, seen.step) == ("running", 99)
        assert seen.steps_per_second == pytest.approx(2)
        assert seen.seconds_left == pytest.approx(300 / 2)
        writer.append(rows(100, 100))
        writer.flush()
        assert until(follower, 200).step == 199
        writer.close("finished")
        *_, last = looks(follower)
    assert last is not None
    assert last.status == "finished"
    assert writer.problem is None


def test_a_run_left_by_its_writer_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    writer = open_writer(path)
    writer.append(rows(0, 100))
    writer.flush()
    left = path.read_bytes(), path.with_name("run.h5.log").read_bytes()
    writer.close("finished")
    path.write_bytes(left[0])
    path.with_name("run.h5.log").write_bytes(left[1])
    assert run_now(path).status == "left by its writer"


# -- the command ------------------------------------------------------------------------------------


def test_once(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(record), "--once", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "collapsed"
    assert told["underflow"]["layer"] == "blocks.5.weight"
    assert run(["watch", str(record)]) == 0  # no terminal here: lines, and the last frame
    captured = capsys.readouterr()
    assert "COLLAPSED" in captured.out
    assert captured.err == ""
    assert run(["watch", str(record), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"


def test_what_it_refuses(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert run(["watch", *words]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert len(told.err.splitlines()) == 1
        return told.err

    assert "there is no file" in refused(str(tmp_path / "no.h5"), "--once")
    assert "--once and --json do not go with it" in refused(str(record), "--web", "--once")
    assert "without --once, gradscope watch waits" in refused(str(handmade(tmp_path / "e.h5", 1, 0)), "--once")
    assert "cannot serve on port 99999" in refused(str(record), "--web", "--port", "99999")
    with served(record) as (address, _):
        port = address.rstrip("/").rsplit(":", 1)[1]
        assert f"cannot serve on port {port}" in refused(str(record), "--web", "--port", port)


def test_what_is_no_record_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.store.follow.PATIENCE", 0.0)
    other = tmp_path / "run.h5"
    other.write_text("a list of things to buy")
    with Follower(other) as follower, pytest.raises(InputError, match="not an HDF5 file"):
        list(looks(follower))


@pytest.mark.thorough
def test_watching_a_training_process_in_terminals(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    narrow, wide = Terminal([*WATCH, str(path)], 40), Terminal([*WATCH, str(path)], 120, NO_COLOR="1")
    for terminal in (narrow, wide):
        terminal.until("waiting for")
    with training(path) as child:
        _watched(child, narrow, wide)


def _watched(child: subprocess.Popen[bytes], narrow: Terminal, wide: Terminal) -> None:
    for terminal in (narrow, wide):
        terminal.until(r"running · step [1-9]\d")
    narrow.child.send_signal(signal.SIGINT)
    assert narrow.end() == 130, narrow.text[-500:]
    assert "Traceback" not in narrow.text
    assert narrow.text.count("\x1b[?25h") >= narrow.text.count("\x1b[?25l") > 0  # the cursor is back
    assert child.poll() is None  # and the training goes on
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.close()
    assert child.wait(200) == 0
    assert wide.end() == 0
    assert "finished · step" in wide.text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", wide.text)  # no colours
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", narrow.text)
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", narrow.text).replace("\r", "\n").splitlines():
        assert len(line) <= 40


# -- served -----------------------------------------------------------------------------------------


def fetched(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_is_served_to_this_machine(record: Path) -> None:
    with served(record) as (address, view):
        view.follower.wait(60)
        assert address.startswith("http://127.0.0.1:")
        code, html = fetched(address)
        assert code == 200
        assert "run.h5 does not learn" in html
        assert "connect-src 'self'" in unescape(html)
        code, text = fetched(f"{address}live.json")
        fresh = json.loads(text)
        assert fresh["over"]
        assert "finished · step 1,999" in fresh["told"]
        assert "does not learn" in fresh["blocks"]["verdicts"]
        assert fetched(f"{address}live.json?since={fresh['version']}") == (204, "")
        assert fetched(f"{address}other")[0] == 404
        assert fetched(address, Host="evil.example")[0] == 403


def test_the_served_page_waits_too(tmp_path: Path) -> None:
    with served(tmp_path / "<b>.h5") as (address, _):
        code, html = fetched(address)
        assert code == 200
        assert "Waiting for the first rows of" in html
        assert "&lt;b&gt;.h5" in html
        assert fetched(f"{address}live.json") == (204, "")
