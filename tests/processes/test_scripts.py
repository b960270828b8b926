"""A script that is forked from a warm process runs as it does in an interpreter of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradscope import InputError
from gradscope.processes.child import ExitStatus, run_child
from gradscope.processes.command import Command
from gradscope.processes.script import Script
from gradscope.store.record import Record
from gradscope.trials.local import LocalExecutor
from gradscope.trials.run_trial import run_command_trial
from gradscope.trials.trial import Trial
from tests.helpers.paths import ROOT

PYTHON = sys.executable

#: All that a script can easily ask about where it is.
ASKS = """
import atexit, json, multiprocessing, os, pathlib, pickle, signal, sys, threading, warnings
class Own: pass
def inner(queue): queue.put(__name__)
def asked():
    return {
        "name": __name__, "file": __file__, "argv": sys.argv, "orig_argv": sys.orig_argv[1:], "path": sys.path,
        "spec": __spec__ and __spec__.name, "doc": __doc__, "package": __package__, "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "main": sys.modules["__main__"].__dict__ is globals(), "own": pickle.loads(pickle.dumps(Own())) is not None,
        "stdin": sys.stdin.read(), "tty": sys.stdout.isatty(), "encoding": [sys.stdout.encoding, sys.stderr.errors],
        "handlers": [str(signal.getsignal(n)) for n in (2, 13, 15, 17, 1)], "mask": str(signal.pthread_sigmask(0, [])),
        "wakeup": signal.set_wakeup_fd(-1), "umask": os.umask(0o22), "threads": threading.active_count(),
        "process": multiprocessing.current_process().name, "parent": str(multiprocessing.parent_process()),
        "files": len(os.listdir("/proc/self/fd")), "filters": len(warnings.filters) > 0,
        "kept": sorted(k for k in globals() if k.startswith("__")),
    }
if __name__ == "__main__":
    found = asked()
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=inner, args=(queue,))
    child.start()
    found["spawned"] = queue.get()
    child.join()
    pathlib.Path(os.environ["GRADSCOPE_OUT"]).write_text(json.dumps(found))
    atexit.register(print, "the very end")
    threading.Timer(0.2, print, ["a thread"]).start()
    print("main is over")
    sys.exit(7)
"""


def outcome(words: list[str], environment: dict[str, str]) -> ExitStatus:
    return run_child(words, environment)


def number() -> int:
    return os.getpid()


@pytest.fixture(scope="module")
def warm() -> Iterator[LocalExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        patch.setenv("OMP_NUM_THREADS", "1")
        with LocalExecutor(2, devices=(), scripts=True) as executor:
            yield executor


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADSCOPE_")}
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def both(warm: LocalExecutor, words: list[str], **more: str) -> tuple[ExitStatus, ExitStatus]:
    """What comes of a command by itself, and forked."""
    there = environment(**more)
    return run_child(words, there), warm.submit(outcome, words, there).result()


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["file", "relative", "module", "unbuffered"])
def test_a_script_cannot_tell(warm: LocalExecutor, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "asks.py").write_text(ASKS)
    monkeypatch.chdir(folder if how == "module" else tmp_path)
    words = {
        "file": [PYTHON, str(folder / "asks.py")], "relative": [PYTHON, "code/asks.py"],
        "module": [PYTHON, "-m", "asks"], "unbuffered": [PYTHON, "-u", str(folder / "asks.py")],
    }[how]  # fmt: skip
    found: list[dict[str, Any]] = []
    for at, run in enumerate((lambda w, e: run_child(w, e), lambda w, e: warm.submit(outcome, w, e).result())):
        out = tmp_path / f"{at}.json"
        came = run([*words, "--epochs", "3"], environment(GRADSCOPE_OUT=str(out), MARK="x"))
        assert (came.code, came.tail.split("\n")) == (7, ["main is over", "a thread", "the very end", ""])
        found.append(json.loads(out.read_text()))
        assert found[-1]["environ"].pop("GRADSCOPE_OUT") == str(out)
    cold, forked = found
    assert {k: (cold[k], forked[k]) for k in cold if cold[k] != forked[k]} == {}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("raise ValueError('no such luck')", 1),
        ("import sys; sys.exit('a word')", 1),
        ("import sys; sys.exit(258)", 2),
        ("raise KeyboardInterrupt", -2),
        ("1 +", 1),
        ("import os; os._exit(9)", 9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("import os; os.abort()", -6),
        ("def f():\n    g()\ndef g():\n    raise KeyError('k')\nf()", 1),
    ],
)
def test_it_ends_as_by_itself(warm: LocalExecutor, tmp_path: Path, body: str, code: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(body)
    cold, forked = both(warm, [PYTHON, str(script)])
    assert (forked.code, forked.tail) == (cold.code, cold.tail)
    assert cold.code == code


def test_what_it_has_left_open_is_written(warm: LocalExecutor, tmp_path: Path) -> None:
    """As at the interpreter's end, also by its modules, and in a cycle."""
    (tmp_path / "other.py").write_text("import sys; file = open(sys.argv[2], 'w'); file.write('b')")
    (tmp_path / "script.py").write_text(
        "import sys, other\nclass A:\n    def __del__(self): print('gone')\n"
        "a = A(); a.a = a; file = open(sys.argv[1], 'w'); file.write('a')"
    )
    for run in ("cold", "warm"):
        words = [PYTHON, str(tmp_path / "script.py"), str(tmp_path / f"{run}-a"), str(tmp_path / f"{run}-b")]
        there = environment()
        came = run_child(words, there) if run == "cold" else warm.submit(outcome, words, there).result()
        assert (came.code, came.tail) == (0, "gone\n")
        assert [(tmp_path / f"{run}-{name}").read_text() for name in "ab"] == ["a", "b"]


def test_what_stands_beside_the_script_is_what_it_imports(warm: LocalExecutor, tmp_path: Path) -> None:
    """Also under a name that the warm process has loaded another module of."""
    (tmp_path / "statistics.py").write_text("def mean(x): return 'mine'\ndef fmean(x): return 'mine'")
    (tmp_path / "script.py").write_text("import statistics; print(statistics.mean([1]))")
    cold, forked = both(warm, [PYTHON, str(tmp_path / "script.py")])
    assert cold.tail == forked.tail == "mine\n"


def test_no_two_scripts_draw_the_same_numbers(warm: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import random, numpy; print(random.random(), numpy.random.rand())")
    told = [warm.submit(outcome, [PYTHON, str(tmp_path / "script.py")], environment()).result().tail for _ in range(2)]
    first, second = (line.split() for line in told)
    assert not set(first) & set(second)


TRAINS = """
import os, sys
import torch
from torch import nn
import gradscope

torch.manual_seed(int(os.environ["GRADSCOPE_SEED"]))
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with gradscope.record(model, optimizer, "run.h5", horizon=60) as run:
    for step in range(60):
        batch = torch.randint(0, 256, (32,))
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
"""


@pytest.mark.thorough
def test_it_trains_as_by_itself(warm: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, and the trial says the same of it."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "train.py").write_text(TRAINS)
    command = Command.parse([PYTHON, str(tmp_path / "train.py")])
    plan = Trial(3, 0.01, 5, whole=True)
    told = [
        run_command_trial(command, plan, tmp_path / "cold.h5"),
        warm.submit(run_command_trial, command, plan, tmp_path / "warm.h5").result(),
    ]
    cold, forked = ({k: v for k, v in vars(trial).items() if k != "path"} for trial in told)
    assert cold == forked
    with Record(tmp_path / "cold.h5") as one, Record(tmp_path / "warm.h5") as other:
        for name in set(one.dims) - {"time"}:
            np.testing.assert_array_equal(one.column(name), other.column(name), name)


@pytest.mark.thorough
def test_the_warm_process_has_one_thread_and_ends_with_its_search() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        executor = LocalExecutor(1, devices=(), scripts=True)
        executor.submit(number).result()
    assert executor._server is not None
    process = executor._server._process
    assert len([*Path(f"/proc/{process.pid}/task").iterdir()]) == 1
    process.kill()  # by whatever: trials go on, from interpreters of their own
    process.wait()
    assert executor.submit(number).result() > 0
    executor.shutdown()
    with LocalExecutor(1, devices=(), scripts=True) as executor:
        assert executor._server is None  # nothing was asked for
        executor.submit(number).result()
        assert executor._server is not None
        process = executor._server._process
    assert process.returncode == -signal.SIGTERM


def test_a_script_ends_with_its_trial(warm: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os, pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    future = warm.submit(outcome, [PYTHON, str(tmp_path / "script.py")], environment())
    deadline = time.monotonic() + 300
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert future.cancel()
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int((tmp_path / "pid").read_text()), 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["/bin/sh", "-c", "true"], "/bin/sh is not the Python that gradscope runs in"),
        (["torchrun", "train.py"], "torchrun is not the Python that gradscope runs in"),
        ([PYTHON, "-X", "dev", "train.py"], "it is not python FILE or python -m MODULE"),
        ([PYTHON, "-c", "pass"], "it is not python FILE or python -m MODULE"),
        ([PYTHON, "no-such-file.py"], "no-such-file.py is no file"),
    ],
)
def test_why_a_command_needs_an_interpreter_of_its_own(words: list[str], why: str) -> None:
    with pytest.raises(InputError, match=re.escape(why)):
        Script.parse(words)
