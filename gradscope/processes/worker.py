"""Worker: a process for one call, which ends with whoever wanted it.

The two talk through one connection. It carries the surroundings (environment, folder), the call, and the answer; and
its end tells each side that the other is gone. So a worker does not outlive the search that wanted it, whatever ended
that one, and a worker that dies costs nothing but its call.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gradscope.processes.child import signal_group
from gradscope.processes.script import Stem
from gradscope.types import InputError

#: Seconds between asking a worker to end and killing it.
GRACE = 5.0
#: The same for a worker whose search is gone: nothing waits for its answer.
ORPHAN_GRACE = 0.4
#: Seconds between two looks at a worker.
LOOK = 0.2


class WorkerLostError(RuntimeError):
    """Call without an answer: its process died, crashed or was out of time."""


@dataclass(frozen=True)
class Worker:
    """Process that was started.

    Attributes:
        pid: of the process.
        connection: to it.
        join: waits for it, at most so many seconds, and returns its exit code; None while it runs.
    """

    pid: int
    connection: Connection
    join: Callable[[float | None], int | None]


def packed(function: Callable[..., Any], *args: Any) -> bytes:
    """Pickle a call.

    Args:
        function: the function to call.
        args: its arguments.

    Returns:
        The bytes.

    Raises:
        InputError: another process could not find the function.
    """
    try:
        return pickle.dumps((function, args))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the training cannot be sent to another process ({error}); give a function of a module, "
            f"or workers=1 to train in this process"
        ) from None


# -- inside the process ---------------------------------------------------------------------------


def serve(connection: Connection, scripts: bool = False) -> None:
    """Live as a worker: be told what to do, do it, answer.

    Whatever ends it, it ends without a message of its own: the search tells what was lost.

    Args:
        connection: to the search.
        scripts: a Python script that the call starts is forked from here, in which case `BecomesError` comes out of
            this in the fork.
    """
    os.setsid()  # a group of its own: ends together, and hears no interrupt meant for the search
    with contextlib.suppress(EOFError, OSError, SystemExit):
        try:
            _serve(connection, scripts)
        finally:  # from here on SIGTERM ends it at once: an interpreter that shuts down prints messages
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(connection: Connection, scripts: bool) -> None:
    surroundings = pickle.loads(connection.recv_bytes())
    os.environ.clear()
    os.environ.update(surroundings["environment"])
    _use_threads(os.environ.get("OMP_NUM_THREADS", ""))
    os.chdir(surroundings["folder"])
    call = connection.recv_bytes()
    stem = Stem(connection) if scripts else None  # while there is one thread
    signal.signal(signal.SIGTERM, _asked_to_end)
    orphaned = threading.Event()
    watch = threading.Thread(target=_end_with_the_search, args=(connection, orphaned), daemon=True)
    watch.start()
    answer: tuple[bool, Any]
    try:
        function, args = pickle.loads(call)
        with contextlib.nullcontext() if stem is None else stem:
            answer = True, function(*args)
    except Exception as error:
        answer = False, error
    except BaseException as error:  # an exit of the training must not end the search that waits for it
        answer = False, RuntimeError(f"{type(error).__name__}: {error}")
    if not orphaned.is_set():
        connection.send_bytes(_packed_answer(answer))
    else:
        watch.join()  # until everything that this call has started is gone


def _use_threads(count: str) -> None:
    """Set the threads of torch: where the fork server has imported it, it read the variable before that was set."""
    if "torch" in sys.modules and count.isdecimal():
        sys.modules["torch"].set_num_threads(int(count))


def _packed_answer(answer: tuple[bool, Any]) -> bytes:
    try:
        packed_answer = pickle.dumps(answer)
        pickle.loads(packed_answer)  # an exception with arguments of its own can be written and not read back
        return packed_answer
    except Exception:
        return pickle.dumps((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


def _asked_to_end(*_: object) -> None:
    """Raise an exception, so that a command that is under way gets the time to end as well."""
    raise SystemExit(128 + signal.SIGTERM)


def _end_with_the_search(connection: Connection, orphaned: threading.Event) -> None:
    """End this process group with the connection: nobody sends anything more, so its end is the end of the search."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv_bytes()
    orphaned.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(ORPHAN_GRACE)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run a worker at the other end of an inherited connection: ``python -m gradscope.processes.worker FD``."""
    serve(Connection(int(sys.argv[1])))


# -- outside --------------------------------------------------------------------------------------


def start_worker() -> Worker:
    """Start a worker in a fresh interpreter, for places where multiprocessing may not start processes."""
    ours, theirs = Pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "gradscope.processes.worker", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    theirs.close()

    def join(seconds: float | None) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(seconds)
        return None

    return Worker(child.pid, ours, join)


def follow(
    worker: Worker,
    call: bytes,
    environment: dict[str, str],
    *,
    limit: float | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Any:
    """Let a started worker do the call, and end the worker.

    Args:
        worker: the process.
        call: from `packed`.
        environment: the whole environment of the call.
        limit: seconds, None for any number.
        cancelled: asked several times a second.

    Returns:
        What the call returned.

    Raises:
        WorkerLostError: the process died or took more than ``limit`` seconds, or the call was cancelled.
        Exception: what the call raised.
    """  # noqa: DOC502 - the answer of the call
    deadline = time.monotonic() + (float("inf") if limit is None else limit)
    try:
        surroundings = {"environment": environment, "folder": str(Path.cwd())}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died at once: seen below
            worker.connection.send_bytes(pickle.dumps(surroundings))
            worker.connection.send_bytes(call)
        while not worker.connection.poll(LOOK):
            if cancelled():
                raise WorkerLostError("cancelled")
            if time.monotonic() > deadline:
                raise WorkerLostError(f"not over after {limit:g} s, and stopped")
        try:
            well, answer = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            code = worker.join(GRACE)
            killed = code is not None and code < 0
            how = f"was killed by signal {-(code or 0)}" if killed else f"ended with code {code} and no answer"
            raise WorkerLostError(f"its process {how}") from None
        if well:
            return answer
        raise answer
    finally:
        _end(worker)


def _end(worker: Worker) -> None:
    """End the process and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_group(worker.pid, number)
        if worker.join(GRACE) is not None:
            break
    signal_group(worker.pid, signal.SIGKILL)  # whatever outlived its leader
    worker.connection.close()


if __name__ == "__main__":
    main()
