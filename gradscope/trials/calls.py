"""What executors share whose calls each have a thread that waits for a process elsewhere."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError, ThreadPoolExecutor
from typing import Any

from gradscope import checks
from gradscope.processes.worker import WorkerLostError, packed
from gradscope.types import InputError


class CallExecutor(Executor):
    """Executor whose calls run in processes of their own and can be cancelled while they run.

    Args:
        workers: calls at a time.
        name: of its threads.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(checks.positive_int(workers, "workers"), thread_name_prefix=name)
        self._futures: set[Future[Any]] = set()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function(*args)`` in a process of its own. The future stays pending while it waits and while it runs.

        Args:
            function: of a module.
            args: of the call.
            kwargs: none.

        Returns:
            The future.

        Raises:
            InputError: there are keyword arguments.
        """
        if kwargs:
            raise InputError(f"{type(self).__name__} takes no keyword arguments for a call; bind them first")
        call = packed(function, *args)
        future: Future[Any] = Future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._threads.submit(self._run, future, call)
        return future

    def _run(self, future: Future[Any], call: bytes) -> None:
        if future.cancelled():
            return
        try:
            answer = self._answer(call, future.cancelled)
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):  # cancelled
                future.set_exception(error if isinstance(error, Exception) else WorkerLostError(repr(error)))
        else:
            with contextlib.suppress(InvalidStateError):
                future.set_result(answer)

    @abstractmethod
    def _answer(self, call: bytes, cancelled: Callable[[], bool]) -> Any:
        """Run a call and return what it returned; raise what it raised. It ends soon after it was cancelled."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. ``cancel_futures`` ends those under way as well, unlike the pools of the library."""
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
        self._threads.shutdown(wait=wait)
