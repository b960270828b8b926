"""A kill before every system call that changes the disk, and in the middle of every write."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradscope.store import redo_log

CHANGING = (
    "open", "pwritev", "pwrite", "ftruncate", "posix_fallocate", "fdatasync", "fsync", "unlink", "close", "utime",
)  # fmt: skip


def die_at(left: list[int], torn: bool) -> None:
    """This process is killed when ``left[0]`` calls more are made; ``torn``: with half of that write done."""

    def wrapped(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0:
                if torn and name == "pwritev":
                    descriptor, views, offset = arguments
                    data = b"".join(bytes(view) for view in views)
                    _PWRITE(descriptor, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **named)

        return counted

    for name in CHANGING:
        setattr(os, name, wrapped(getattr(os, name), name))


_PWRITE = os.pwrite


def killed_at(
    number: int, torn: bool, action: Callable[[Callable[[int], None]], None], after: int = -1
) -> tuple[int, bool]:
    """Run ``action(published)`` in a fork that dies at a call: (the rows last told, whether it died).

    Calls count from the moment on at which ``after`` rows are published; -1: from the start.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        tell, code = os.write, 1
        try:
            left = [number if after < 0 else 1 << 60]
            die_at(left, torn)

            def published(rows: int) -> None:
                tell(writing, struct.pack("<q", rows))
                if rows == after:
                    left[0] = number

            action(published)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    told = b""
    while piece := os.read(reading, 65536):
        told += piece
    os.close(reading)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status)
    assert died or os.WEXITSTATUS(status) == 0, f"the child failed at call {number}"
    return (struct.unpack(f"<{len(told) // 8}q", told)[-1] if told else -1), died


def clean(path: Path) -> None:
    """Take away whatever a life has left."""
    for left in path.parent.iterdir():
        left.unlink()


def half_applied(path: Path, life: Callable[[Path, Callable[[int], None]], None]) -> int:
    """Leave a record that was killed in the middle of applying its log; the rows published."""
    number, rows = 0, -1
    while True:
        clean(path)
        rows, died = killed_at(number, True, lambda published: life(path, published))
        assert died, "no kill has left a log that was half applied"
        transaction = redo_log.read(redo_log.beside(path))
        if rows >= 300 and transaction is not None and _differs(path, transaction):
            return rows
        number += 1


def _differs(path: Path, transaction: redo_log.Transaction) -> bool:
    data = path.read_bytes()
    size = redo_log.PAGE
    return any(data[i * size : (i + 1) * size] != page[: len(data) - i * size] for i, page in transaction.pages.items())
