"""Read the keys that scroll a live view and choose a layer, where standard input is a terminal."""

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
#: What a key sends, and by how many layers it moves on.
CHOICES = {b"n": 1, b"p": -1, b"\x1b[C": 1, b"\x1b[D": -1, b"N": 10, b"P": -10}
#: Choose among blocks or among layers; and none.
BY_BLOCK, NONE = b"b", b"0"


class Keys:
    """Keys of a terminal, as a context manager in which it sends them one by one and does not show them.

    Ctrl-C stays what it is.

    Attributes:
        top: the line that the keys have moved to.
        place: the layer or block that was chosen, from 1, beyond the last one too; 0 for none.
        by_block: blocks are chosen, not layers.
    """

    def __init__(self) -> None:
        self.top = self.place = 0
        self.by_block = False
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
        """Wait so long, or until a key was pressed."""
        if self._before is None:
            time.sleep(seconds)
        elif select.select([self._input], [], [], seconds)[0]:
            if not (sent := os.read(self._input, 64)):
                time.sleep(seconds)  # the terminal has gone
            self.press(sent)

    def press(self, sent: bytes) -> None:
        """Do what was sent, which may be several keys."""
        while sent:
            key = next((key for key in (*MOVES, *CHOICES) if sent.startswith(key)), sent[:1])
            self.top = max(0, self.top + MOVES.get(key, 0))
            if key in CHOICES:
                self.place += CHOICES[key]
            if key == BY_BLOCK:
                self.by_block, self.place = not self.by_block, 1
            if key == NONE:
                self.place = 0
            if key in CHOICES or key == BY_BLOCK:
                self.top = 0  # what was chosen stands in front
            sent = sent[len(key) :]
