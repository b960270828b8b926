"""Fork server: a process that has imported what is needed, and forks each worker, so that nobody waits for imports.

It has one thread and touches no device. It ends with the search that started it, whatever ended that one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection

from gradscope.processes.script import BecomesError
from gradscope.processes.worker import Worker, WorkerLostError, serve

#: Seconds between two looks at a process.
LOOK = 0.02


class ForkServer:
    """Fork server, seen from its owner.

    Args:
        environment: that of the workers, as far as it is one for all.
        preload: modules that are imported before the first fork.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str]) -> None:
        # no address in a folder: a long TMPDIR has no room for one
        self._asking, asked = socket.socketpair()
        with asked:
            # -P: nothing of the folder that happens to be the current one is imported
            words = [sys.executable, "-P", "-m", "gradscope.processes.fork_server", str(asked.fileno()), *preload]
            self._process = subprocess.Popen(
                words, env=dict(environment), pass_fds=(asked.fileno(),), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def start(self) -> Worker | None:
        """Fork a worker; None where the server has ended."""
        ours, theirs = socket.socketpair()
        connection = Connection(ours.detach())
        try:
            with theirs:
                socket.send_fds(self._asking, [b"1"], [theirs.fileno()])
            while not connection.poll(LOOK):
                if self._process.poll() is not None:
                    connection.close()
                    return None
            pid = int(connection.recv_bytes())
        except (EOFError, OSError):
            connection.close()
            return None
        return Worker(pid, connection, lambda seconds: _joined(pid, seconds))

    def close(self) -> None:
        """End the server, whether or not it has imported everything. Workers under way belong to their owners."""
        self._process.terminate()
        self._process.wait()
        self._asking.close()


def _joined(pid: int, seconds: float | None) -> int | None:
    """Wait for a process to be gone, and return 0; None after so many seconds.

    Only its parent, the fork server, knows how it ended.

    Returns:
        0, or None where it still runs.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return 0
        time.sleep(LOOK)
    return None


# -- the process itself ---------------------------------------------------------------------------


def _fork_workers(asked: socket.socket) -> Connection:
    """Fork a process for each connection that comes, until the search is gone; only the forks return.

    Returns:
        The connection of the fork.
    """
    ended, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    workers: dict[int, Connection] = {}
    with selectors.DefaultSelector() as selector:
        for file in (asked.fileno(), ended):
            selector.register(file, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if ended in ready:
                with contextlib.suppress(BlockingIOError):
                    while os.read(ended, 512):
                        pass
                _say_how_they_ended(workers)
            if asked.fileno() not in ready:
                continue
            _, theirs, _, _ = socket.recv_fds(asked, 1, 1)
            if not theirs:
                os._exit(0)
            os.set_inheritable(theirs[0], False)
            connection = Connection(theirs[0])
            if pid := os.fork():
                workers[pid] = connection
                with contextlib.suppress(OSError):
                    connection.send_bytes(str(pid).encode())
                continue
            break
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked.close()
    for file in (ended, wakes):
        os.close(file)
    for other in workers.values():
        other.close()
    return connection


def _say_how_they_ended(workers: dict[int, Connection]) -> None:
    """Send the exit status of ended workers to their owners; one that has had its answer does not read it."""
    while workers:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code} and no answer"
        with workers.pop(pid) as connection, contextlib.suppress(OSError):
            connection.send_bytes(pickle.dumps((False, WorkerLostError(f"its process {how}"))))


def main() -> None:
    """Run the server: ``python -P -m gradscope.processes.fork_server SOCKET MODULES``; calls come over the socket."""
    asked = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    connection = _fork_workers(asked)
    try:
        serve(connection, scripts=True)
        os._exit(0)  # no script has run here: nothing needs an orderly end
    except BecomesError as found:
        script = found.script
    script.run()


if __name__ == "__main__":
    main()
