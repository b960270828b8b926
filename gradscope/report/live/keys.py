"""Read the keys that scroll a live view, where standard input is a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Any

#: What a key sends, and by how many lines it moves.
MOVES = {b"\x1b[A": -1, b"\x1b[B": 1, b"k": -1, b"j": 1, b"\x1b[5~": -10, b"\x1b[6~": 10, b" ": 10}


class Keys:
    """Keys of a terminal, as a context manager in which it sends them one by one and does not show them.

    Ctrl-C stays what it is.

    Attributes:
        top: the line that the keys have moved to.
    """

    def __init__(self) -> None:
        self.top = 0
        self._before: list[Any] | None = None

    @property
    def read(self) -> bool:
        """Whether there is a terminal to read keys from."""
        return self._before is not None

    def __enter__(self) -> Keys:
        try:
            self._input = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._input)
            tty.setcbreak(self._input)
        except (OSError, ValueError, AttributeError, termios.error):
            self._before = None  # no terminal: nothing is read
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a key that moves the view was pressed."""
        if self._before is None:
            time.sleep(seconds)
        elif select.select([self._input], [], [], seconds)[0]:
            if not (sent := os.read(self._input, 64)):
                time.sleep(seconds)  # the terminal has gone
            self.press(sent)

    def press(self, sent: bytes) -> None:
        """Move by what was sent, which may be several keys."""
        while sent:
            key = next((key for key in MOVES if sent.startswith(key)), sent[:1])
            self.top = max(0, self.top + MOVES.get(key, 0))
            sent = sent[len(key) :]
