"""Calls for executors, importable by name in other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def answer(value: int, seconds: float = 0.0) -> int:
    """Comes back after a while."""
    time.sleep(seconds)
    return value


def pid_then_sleep(note: Path, seconds: float = 120.0) -> None:
    """Tells its process, and hangs."""
    fresh = note.with_suffix(".new")
    fresh.write_text(str(os.getpid()))
    fresh.rename(note)
    time.sleep(seconds)


def killed() -> None:
    """Dies as it does when the machine is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def threads() -> int:
    """How many threads an operation of torch takes."""
    import torch

    return torch.get_num_threads()


def loaded(*names: str) -> list[str]:
    """Which of these modules the process has before it has done anything."""
    return [name for name in names if name in sys.modules]


def failing(text: str) -> None:
    """Raises."""
    raise ArithmeticError(text)


class Awkward(Exception):
    """An exception that can be pickled and not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("awkward")


def failing_awkwardly() -> None:
    """Raises what does not travel."""
    raise Awkward(1, 2)


def surroundings() -> tuple[str | None, str | None, str, int]:
    """What a call sees of where it runs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("GRADSCOPE_PROBE"), str(Path.cwd()), os.getpid()


def writes_on(note: Path) -> None:
    """Writes ten times a second for as long as it lives."""
    for k in range(1200):
        note.write_text(str(k))
        time.sleep(0.1)


def deaf_grandchild(note: Path) -> None:
    """Starts a process that hears no SIGTERM, and waits for it."""
    code = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "note = pathlib.Path(sys.argv[1]); fresh = note.with_suffix('.new'); fresh.write_text(str(os.getpid())); "
        "fresh.rename(note); time.sleep(120)"
    )
    subprocess.run([sys.executable, "-c", code, str(note)], check=True)
