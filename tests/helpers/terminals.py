"""Commands in pseudo-terminals, and a training that goes on until it is told to end."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

#: The command that watches a record, without it.
WATCH = [sys.executable, "-m", "gradscope_cli.main", "watch"]


class Terminal:
    """A command in a terminal of this many columns."""

    def __init__(self, words: list[str], columns: int, **environment: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONWARNINGS": "ignore", **environment}
        env.pop("COLUMNS", None)
        self.child = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
        os.close(slave)
        self.text = ""

    def read(self, seconds: float = 0.1) -> None:
        while select.select([self.master], [], [], seconds)[0]:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            self.text += piece.decode(errors="replace")

    def until(self, pattern: str) -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            self.read()
            if re.search(pattern, self.text):
                return
            if self.child.poll() is not None:
                break
        raise AssertionError(f"{pattern!r} was not in {self.text[-2000:]!r}")

    def send(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> int:
        deadline = time.monotonic() + 400
        while self.child.poll() is None and time.monotonic() < deadline:
            self.read()
        self.read()
        os.close(self.master)
        if self.child.poll() is None:
            self.child.kill()
        return self.child.wait()


TRAINING = """
import select, sys, time, torch
from torch import nn
import gradscope
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
with gradscope.record(model, optimizer, sys.argv[1], on_failure="ignore") as run:
    while not select.select([sys.stdin], [], [], 0.02)[0]:  # until it is told to end
        loss = model(torch.randn(8, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
"""


@contextmanager
def training(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", TRAINING, str(path)], stdin=subprocess.PIPE)
    with child:
        yield child
        child.kill()
