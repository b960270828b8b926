"""Run trials on this machine: one process a trial, so many at a time, each slot with a device of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, InvalidStateError, ThreadPoolExecutor
from typing import Any

from gradscope import checks
from gradscope.processes.fork_server import ForkServer
from gradscope.processes.script import devices_here
from gradscope.processes.worker import Worker, WorkerLostError, follow, packed, serve
from gradscope.types import InputError

#: To preload for trainings of torch: the recording, and what the first one of a process spends seconds on loading.
RECORDING = ("gradscope.recording.opening", "gradscope.recorder.preload")
#: To preload for trials of any kind.
TRIALS = "gradscope.trials.run_trial"


class LocalExecutor(Executor):
    """Executor whose calls run in processes of their own and can be cancelled while they run.

    A process that dies, hangs for more than ``limit`` seconds or runs out of memory costs its own call alone, which
    raises `WorkerLostError`.

    Args:
        workers: calls at a time.
        limit: seconds for a call, None for any number.
        devices: handed out one a slot through ``CUDA_VISIBLE_DEVICES``; by default those of the machine.
        preload: modules that are imported once, for all processes.
        scripts: the calls run Python scripts, which begin with everything imported that a recording needs
            (`ForkServer`).
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        limit: float | None = None,
        devices: Sequence[str] | None = None,
        preload: Sequence[str] = (),
        scripts: bool = False,
    ) -> None:
        checks.positive_int(workers, "workers")
        self._limit = limit
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="gradscope-trial")
        self._futures: set[Future[Any]] = set()
        found = devices_here() if devices is None else list(devices)
        self._slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for slot in range(workers):
            self._slots.put(found[slot % len(found)] if found else None)
        self._threads_each = max(1, (os.cpu_count() or 1) // workers)
        # Forking a process that has only imported saves seconds a trial; but CUDA does not survive a fork, and
        # a module may look for cards when it is imported: there, fresh interpreters. Nor where the fork server's
        # address finds no room: TMPDIR, the library's folder and file in it, at most 107 bytes.
        forks = not found and len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678") < 108
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(["__main__", TRIALS, *preload])
        self._scripts, self._starting = scripts and not found, threading.Lock()
        self._server: ForkServer | None = None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function(*args)`` in a process of its own. The future stays pending while it runs."""
        if kwargs:
            raise InputError(f"{type(self).__name__} takes no keyword arguments for a call; bind them first")
        call = packed(function, *args)
        future: Future[Any] = Future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._threads.submit(self._run, future, call)
        return future

    def _run(self, future: Future[Any], call: bytes) -> None:
        slot = self._slots.get()
        try:
            if future.cancelled():
                return
            answer = follow(self._start(), call, self._environment(slot), limit=self._limit, cancelled=future.cancelled)
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):  # cancelled
                future.set_exception(error if isinstance(error, Exception) else WorkerLostError(repr(error)))
        else:
            with contextlib.suppress(InvalidStateError):
                future.set_result(answer)
        finally:
            self._slots.put(slot)

    def _start(self) -> Worker:
        if self._scripts:
            with self._starting:  # by the first call: a search that is refused starts nothing
                self._server = self._server or ForkServer(self._environment(None), (*RECORDING, TRIALS))
            if (worker := self._server.start()) is not None:
                return worker
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,))
        process.start()
        theirs.close()

        def join(seconds: float | None) -> int | None:
            process.join(seconds)
            code: int | None = process.exitcode
            return code

        return Worker(process.pid, ours, join)

    def _environment(self, device: str | None) -> dict[str, str]:
        """Return the environment of the search, with this slot's device and share of the cores."""
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self._threads_each))
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        return environment

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. ``cancel_futures`` ends those under way as well, unlike the pools of the library."""
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
        self._threads.shutdown(wait=wait)
        if wait and self._server is not None:
            self._server.close()
