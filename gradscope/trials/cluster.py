"""Trials on a Dask cluster, through the executor that Dask's client offers (extra ``dask``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from gradscope.extras import missing
from gradscope.processes.worker import follow, packed, start_worker
from gradscope.types import InputError

#: Seconds to wait for a scheduler to answer.
PATIENCE = 10


class DaskExecutor(Executor):
    """Executor that sends each call to a Dask worker, which runs it in a process of its own.

    A worker that dies is Dask's business: the call runs again elsewhere, up to its ``allowed-failures``. A call that is
    cancelled, or whose client is gone, ends within a second.

    Args:
        address: ``HOST:PORT`` of the scheduler.
        limit: seconds for a call, None for any number.

    Raises:
        InputError: Dask is not installed, or no scheduler answers.
    """

    def __init__(self, address: str, *, limit: float | None = None) -> None:
        try:
            import distributed
        except ImportError:
            raise InputError(missing("the executor dask://…", "distributed")) from None
        self.address = address
        self._limit = limit
        try:
            client: Any = distributed.Client
            self._client = client(f"tcp://{address}", timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {address} ({error or type(error).__name__}); start one with dask "
                f"scheduler, and give its address as dask://HOST:PORT"
            ) from None
        self._executor = self._client.get_executor(pure=False)

    @property
    def slots(self) -> int:
        """Threads of the workers that are there now."""
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function(*args)`` in a process of its own on one of the workers."""
        if kwargs:
            raise InputError(f"{type(self).__name__} takes no keyword arguments for a call; bind them first")
        future: Future[Any] = self._executor.submit(in_own_process, packed(function, *args), self._limit)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the cluster itself stays."""
        self._executor.shutdown(wait=wait and not cancel_futures)  # without waiting, Dask cancels what is left
        self._client.close()


def in_own_process(call: bytes, limit: float | None) -> Any:
    """Run the call, on a Dask worker, in its own process; end it when the task is cancelled or its client is gone."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state not in ("executing", "long-running")

    return follow(start_worker(), call, dict(os.environ), limit=limit, cancelled=cancelled)
