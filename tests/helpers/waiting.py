"""Wait for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def until(what: Callable[[], object], seconds: float = 300) -> None:
    """Wait for it to be so; an error after so long."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """The process has ended (a zombie, whose parent has not asked yet, has too)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
