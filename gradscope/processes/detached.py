"""Detached children: training commands that outlive their supervisor, if need be.

The output of a child goes to a file, which is shown live, and the child holds a lock for as long as it runs. So a
supervisor that is killed leaves a training that goes on undisturbed, and the next one finds it, shows the rest of its
output and waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from gradscope.processes.child import ExitStatus, signal_group, start_child

#: Seconds between two looks at a process, and those it gets to end after it was asked to.
PAUSE, GRACE = 0.05, 30.0

#: Signals that are passed on to the child: those that end the supervision, and two more for the script alone.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PASSED_ON = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[int]:
    """Open the folder of a training and lock it: the mark that cannot be deleted without the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without such locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def holds_a_training(folder: Path) -> bool:
    """Return whether a training that was started in this folder still runs, whatever has become of the files in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


class DetachedChild:
    """Training command, started by this process or by one that was killed.

    Args:
        record: what it writes; log and lock stand beside it (``attempt-1.log``, ``attempt-1.alive``).
        pid: of the process, if it was started before.

    Attributes:
        log: the file with its output.
        pid: of the process, None before it is started.
        signals: those of `ENDING` that were passed on to it.
    """

    def __init__(self, record: Path, pid: int | None = None) -> None:
        self.log, self._alive = record.with_suffix(".log"), record.with_suffix(".alive")
        self._folder = record.parent
        self.pid = pid
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_to_end: float | None = None
        self.signals: list[int] = []

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command, in a session of its own.

        Args:
            words: the command.
            environment: the whole environment of the child.

        Raises:
            InputError: there is no such program.
        """  # noqa: DOC502 - raised by what it calls
        with self._alive.open("a") as lock, self.log.open("ab") as log, _folder_lock(self._folder) as folder:
            fcntl.flock(lock, fcntl.LOCK_EX)  # shared with the child, and held until it has ended
            surroundings = {"PYTHONUNBUFFERED": "1", **environment}
            held = [lock.fileno(), folder]
            self._process = start_child(words, surroundings, log, start_new_session=True, pass_fds=held)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs; of a process that was started elsewhere, the lock tells."""
        return self._held() if self._process is None else self._process.poll() is None

    def _held(self) -> bool:
        if not self._alive.exists():  # it was deleted: the folder itself is locked, too
            return holds_a_training(self._folder)
        with self._alive.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def follow(self, show: bool, deadline: float | None, each: Callable[[], None]) -> None:
        """Wait for its end.

        Args:
            show: pass its output on to standard error, from where it stands now.
            deadline: of `time.monotonic`: it is ended then.
            each: called once a second, and may raise, which ends the child.
        """
        shown = 0 if self._process is not None or not self.log.exists() else self.log.stat().st_size
        looked = time.monotonic()
        with self._signals():
            try:
                while self.alive:
                    shown = self._show(shown) if show else shown
                    now = time.monotonic()
                    if deadline is not None and now > deadline and self._asked_to_end is None:
                        self.send(signal.SIGTERM)
                    if self._asked_to_end is not None and now > self._asked_to_end + GRACE:
                        self.send(signal.SIGKILL)
                    if now > looked + 1:
                        looked = now
                        each()
                    time.sleep(PAUSE)
                self._end_the_rest()
            except BaseException:
                self.send(signal.SIGTERM)
                self._wait()
                raise
        if show:
            self._show(shown)

    def _show(self, position: int) -> int:
        with self.log.open("rb") as log:
            log.seek(position)
            if part := log.read():
                sys.stderr.buffer.write(part)
                sys.stderr.flush()
        return position + len(part)

    # -- ending it --------------------------------------------------------------------------------

    def send(self, number: int) -> None:
        """Pass a signal on. An interrupt goes to the whole group, as in a terminal, and so does the last one."""
        if self.pid is None:
            return
        if number in ENDING and self._asked_to_end is None:
            self._asked_to_end = time.monotonic()
        if number in (signal.SIGINT, signal.SIGKILL):
            signal_group(self.pid, number)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Pass signals to the supervisor on to the child; one that it ignores (nohup) stays ignored."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            again = self._asked_to_end is not None and number in ENDING
            if number in ENDING:
                self.signals.append(number)
            self.send(signal.SIGKILL if again else number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.getsignal(n) for n in PASSED_ON if signal.getsignal(n) is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, pass_on)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_the_rest(self) -> None:
        """End what is left of its group: a shell that was ended may have left the training behind."""
        if self._asked_to_end is None or self.pid is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + GRACE
            signal_group(self.pid, number)
            while self._held() and time.monotonic() < until:
                time.sleep(PAUSE)

    def _wait(self) -> None:
        until = time.monotonic() + GRACE
        while self.alive and time.monotonic() < until:
            time.sleep(PAUSE)
        if self.alive:
            self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    # -- afterwards -------------------------------------------------------------------------------

    @property
    def exit_status(self) -> ExitStatus:
        """Exit code (0 where another process has started it, and nobody knows) and the end of its output."""
        code = 0 if self._process is None else self._process.returncode
        with self.log.open("rb") as log:
            return ExitStatus.read(code, log)

    @property
    def ours(self) -> bool:
        """Whether this process has started it, and so knows its exit code."""
        return self._process is not None
