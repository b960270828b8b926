"""Choose and open the executor that a search runs its trials on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from gradscope import checks
from gradscope.processes.worker import WorkerLostError
from gradscope.trials.local import LocalExecutor
from gradscope.trials.slurm import SCHEME, JobOptions, SubmititExecutor
from gradscope.types import InputError


class InProcessExecutor(Executor):
    """Executor that runs each call in this process before `submit` returns: for functions that no other can find."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function, and return a future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        except SystemExit as error:  # of the training's own accord: a trial that is lost, not the end of the search
            future.set_exception(WorkerLostError(f"SystemExit: {error}"))
        return future


def checked(name: str) -> str:
    """Check the name of an executor as far as that can be done without connecting.

    Args:
        name: what was given.

    Returns:
        The name.

    Raises:
        InputError: it is none of ``local``, ``dask://HOST:PORT``, ``submitit`` and ``submitit://FOLDER?NAME=VALUE&…``.
    """
    if name == SCHEME or name.startswith((f"{SCHEME}:", f"{SCHEME}?")):
        JobOptions.parse(name)
        return name
    host, _, port = name.removeprefix("dask://").rpartition(":")
    if name == "local" or (name.startswith("dask://") and host and port.isdigit()):
        return name
    raise InputError(
        f"executor is {name!r}; expected local, dask://HOST:PORT with the address of a Dask scheduler, "
        f"or submitit for Slurm"
    )


def open_executor(
    asked: str | Executor,
    workers: int | None,
    limit: float | None,
    preload: Sequence[str] = (),
    scripts: bool = False,
) -> tuple[Executor, int]:
    """Open an executor.

    Args:
        asked: ``local``, ``dask://HOST:PORT``, ``submitit``, or an executor, which is used as it is.
        workers: trials at a time; None: one here or on Slurm, all there are on a Dask cluster.
        limit: seconds for a trial, None for any number.
        preload: modules that are imported once, for all processes.
        scripts: the calls run Python scripts.

    Returns:
        The executor, and how many trials to have under way.

    Raises:
        InputError: something given cannot be used.
    """
    if workers is not None:
        checks.positive_int(workers, "workers")
    if limit is not None and not checks.finite(limit, "timeout") > 0:
        raise InputError(f"timeout is {limit:g}; expected seconds above 0")
    if isinstance(asked, Executor):
        if limit is not None:
            raise InputError("timeout is for our own executors; set the limit in the executor that you give")
        return asked, workers or 1
    if checked(asked) == "local":
        return LocalExecutor(workers or 1, limit=limit, preload=preload, scripts=scripts), workers or 1
    if asked.startswith(SCHEME):
        return SubmititExecutor(JobOptions.parse(asked), workers or 1, limit=limit), workers or 1
    from gradscope.trials.cluster import DaskExecutor

    cluster = DaskExecutor(asked.removeprefix("dask://"), limit=limit)
    return cluster, workers or max(1, cluster.slots)
