"""Fixtures: records of real training runs, made once a session."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradscope.demo import training

if not torch.cuda.is_available():  # no card: Triton's kernels run on the CPU; read when triton is first imported
    os.environ["TRITON_INTERPRET"] = "1"


# Ranks are forked from a process that has imported what each of them needs.
multiprocessing.set_forkserver_preload(["gradscope.recording.opening", "gradscope.recorder.preload"])

# A shell's job in the background ignores Ctrl-C, one under nohup a hang-up, and so would all that tests start and end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


#: Seconds for tests that are slow because the thing is; `timeout` in pyproject.toml holds for all others.
TIMEOUTS = {"slow": 7200, "thorough": 900}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give marked tests more time, unless they ask for a time of their own."""
    for item in items:
        marker = next((name for name in TIMEOUTS if item.get_closest_marker(name)), None)
        if marker and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUTS[marker]))


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No instruction of an outer gradscope reaches a test; one thread, because the workers share two cores."""
    for name in list(os.environ):
        if name.startswith("GRADSCOPE_"):
            monkeypatch.delenv(name)
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The file of this name, made by whichever worker of the session needs it first."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the session
    path = folder / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_suffix(".made" + path.suffix)
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session")
def collapsed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network at four times the strength it tolerates, trained to the horizon; not to be changed."""
    return made_once(tmp_path_factory, "collapsed.h5", lambda path: training.train(0.08, 0, path))


@pytest.fixture(scope="session")
def healthy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network at a strength it tolerates; not to be changed."""
    return made_once(tmp_path_factory, "healthy.h5", lambda path: training.train(0.004, 0, path))
