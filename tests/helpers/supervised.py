"""`gradscope run` in a process of its own, and programs for it to run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PYTHON = sys.executable
#: A program that writes its number to a file, then does what its body says.
PLAIN = "import os, pathlib, signal, sys, time; pathlib.Path({marker!r}).write_text(str(os.getpid())); {body}"


def supervised(out: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """gradscope run in a process of its own."""
    arguments = [PYTHON, "-m", "gradscope_cli.main", "run", "--json", "--out", str(out), *options, "--", *words]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(what: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not what() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)


def alive(marker: Path) -> bool:
    """Whether the process that wrote its number here still runs."""
    try:
        os.kill(int(marker.read_text()), 0)
    except (ProcessLookupError, ValueError):
        return False
    return "Z" not in Path(f"/proc/{marker.read_text()}/stat").read_text().split()[2]
