"""Start a child process, wait for it, and read its exit status."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any, Protocol

from gradscope.processes.instructions import EXIT_STOPPED
from gradscope.types import InputError

#: Bytes of a child's output that are kept of its end.
TAIL = 4000
#: Seconds that a child gets to end after it was asked to.
GRACE = 10.0


@dataclass(frozen=True)
class ExitStatus:
    """Exit status of a child.

    Attributes:
        code: its exit code, below 0 for the signal that killed it.
        tail: the last lines that it wrote to standard error.
    """

    code: int
    tail: str

    @classmethod
    def read(cls, code: int, log: IO[bytes]) -> ExitStatus:
        """Make the status of a child, with the end of what it has written to its log."""
        log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
        return cls(code, log.read().decode(errors="replace"))

    @property
    def ended_itself(self) -> bool:
        """Whether it ended without an error, or was stopped by its own recording."""
        return self.code in (0, EXIT_STOPPED)

    def complaint(self, words: Sequence[str]) -> str:
        """Describe a child that failed, in one line."""
        how = f"was killed by signal {-self.code}" if self.code < 0 else f"exited with code {self.code}"
        last = self.tail.strip().splitlines()[-1] if self.tail.strip() else "nothing on standard error"
        return f"the command {' '.join(words)!r} {how}: {last}"


class Child(Protocol):
    """Process that was started: as much of `subprocess.Popen` as is needed here.

    Attributes:
        returncode: its exit code, None while it runs.
    """

    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


#: Starts a command in an environment, with its output in a file.
Start = Callable[[Sequence[str], Mapping[str, str], IO[bytes]], Child]


def start_child(
    words: Sequence[str], environment: Mapping[str, str], log: IO[bytes], **more: Any
) -> subprocess.Popen[bytes]:
    """Start a command, with its output in ``log``.

    Args:
        words: the command.
        environment: the whole environment of the child.
        log: takes its standard output and standard error.
        more: for `subprocess.Popen`.

    Returns:
        The process.

    Raises:
        InputError: there is no such program.
    """
    try:
        return subprocess.Popen(
            words, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **more
        )
    except OSError as error:
        raise InputError(f"cannot start {words[0]!r}: {error.strerror}") from None


_START: ContextVar[Start] = ContextVar("gradscope_start", default=start_child)


@contextlib.contextmanager
def starting(start: Start) -> Iterator[None]:
    """Start children in this way inside the ``with`` block."""
    token = _START.set(start)
    try:
        yield
    finally:
        _START.reset(token)


def run_child(words: Sequence[str], environment: Mapping[str, str]) -> ExitStatus:
    """Run a child to its end; an exception meanwhile (a signal's) ends it."""
    with tempfile.TemporaryFile() as log:
        child = _START.get()(words, environment, log)
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE)
            child.kill()
            child.wait()
            raise
        return ExitStatus.read(code, log)


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
