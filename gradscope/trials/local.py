"""Run trials on this machine: one process a trial, so many at a time, each slot with a device of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from gradscope.processes.fork_server import ForkServer
from gradscope.processes.script import devices_here
from gradscope.processes.worker import Worker, follow, serve
from gradscope.trials.calls import CallExecutor

#: To preload for trainings of torch: the recording, and what the first one of a process spends seconds on loading.
RECORDING = ("gradscope.recording.opening", "gradscope.recorder.preload")
#: To preload for trials of any kind.
TRIALS = "gradscope.trials.run_trial"


class LocalExecutor(CallExecutor):
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
        super().__init__(workers, "gradscope-trial")
        self._limit = limit
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

    def _answer(self, call: bytes, cancelled: Callable[[], bool]) -> Any:
        slot = self._slots.get()
        try:
            return follow(self._start(), call, self._environment(slot), limit=self._limit, cancelled=cancelled)
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
        """As `CallExecutor`, and the fork server ends with it."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait and self._server is not None:
            self._server.close()
