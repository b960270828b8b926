"""Trials as jobs of a Slurm cluster, each submitted by submitit (extra ``slurm``)."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from gradscope import checks
from gradscope.extras import missing
from gradscope.processes.worker import GRACE, WorkerLostError, follow, start_worker
from gradscope.trials.calls import CallExecutor
from gradscope.types import InputError

#: Begins the spelling of an executor on Slurm.
SCHEME = "submitit"
#: The folder of jobs that no folder was named for.
FOLDER = "submitit-jobs"
#: Seconds between two looks at a job's result.
LOOK = 0.2
#: Seconds between two questions to Slurm, whose accounting is asked for all jobs at once.
ASK = 60.0
#: Seconds that a job has beyond the limit of its call, for it to end by itself.
MARGIN = 300.0
#: Parameters that every cluster of submitit knows; all others are Slurm's own.
SHARED = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "name", "stderr_to_stdout")


@dataclass(frozen=True)
class JobOptions:
    """Where and how jobs are submitted.

    Attributes:
        folder: of the jobs' logs and results, on a file system that all machines share.
        cluster: ``slurm``; ``local`` for processes of this machine; None: Slurm where there is one.
        parameters: of submitit's ``AutoExecutor``.
    """

    folder: str = FOLDER
    cluster: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, spelled: str) -> JobOptions:
        """Read ``submitit`` or ``submitit://FOLDER?partition=gpu&timeout_min=240``.

        Args:
            spelled: what was given.

        Returns:
            The options.

        Raises:
            InputError: it is neither.
        """
        folder, mark, query = spelled.removeprefix(SCHEME).removeprefix("://").partition("?")
        if spelled != SCHEME and not spelled.startswith((f"{SCHEME}://", f"{SCHEME}?")):
            raise InputError(f"executor is {spelled!r}; expected submitit or submitit://FOLDER?partition=NAME&…")
        try:
            given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if mark else {}
        except ValueError:
            given = {"": ""}
        if not all(given.values()):
            raise InputError(f"executor is {spelled!r}; after ? expected NAME=VALUE pairs, joined by &")
        cluster = given.pop("cluster", None)
        if cluster not in (None, "slurm", "local"):
            raise InputError(f"executor has cluster={cluster}; expected slurm or local")
        if alone := {"nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node", "ntasks_per_node"} & set(given):
            raise InputError(f"executor has {min(alone)}; a trial is one process of one job, so leave it out")
        named = {
            name if name in SHARED or name.startswith("slurm_") else f"slurm_{name}": given[name] for name in given
        }
        return cls(folder or FOLDER, cluster, {name: _value(text) for name, text in named.items()})


def _value(text: str) -> int | float | bool | str:
    """Read a number where it is spelled as one is written, else leave the text: an account 00123 is no number."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if str(value := kind(text)) == text and math.isfinite(value):
                return value
    return text


class SubmititExecutor(CallExecutor):
    """Executor that submits each call to Slurm as a job, in which it has a process of its own.

    A call that is cancelled ends with its job. The jobs of a search that is gone end by themselves: they watch a file
    that it writes to.

    Args:
        options: where and how.
        workers: jobs at a time.
        limit: seconds for a call, None for any number (then the options say how long a job may take).
        beat: seconds between two signs of life to the jobs; they end after eight without one.

    Raises:
        InputError: submitit is not installed, there is no Slurm, or it does not know an option.
    """

    def __init__(
        self, options: JobOptions, workers: int = 1, *, limit: float | None = None, beat: float = 15.0
    ) -> None:
        super().__init__(workers, "gradscope-job")
        parameters = dict(options.parameters)
        if not {"timeout_min", "slurm_time"} & set(parameters):
            if limit is None:
                raise InputError("a job needs a time limit: give timeout, or timeout_min=MINUTES with the executor")
            parameters["timeout_min"] = math.ceil((limit + MARGIN) / 60)
        elif (minutes := parameters.get("timeout_min", 1)) is True or not isinstance(minutes, int) or minutes < 1:
            raise InputError(f"timeout_min is {minutes}; expected a whole number of minutes, such as 240")
        self._limit, self._beat = limit, beat
        self._jobs = _opened(options, parameters)
        self._sign = Path(self._jobs.folder) / f"search-{uuid.uuid4().hex}.alive"
        self._asking = threading.Lock()  # submitit's own bookkeeping knows no threads
        self._over = threading.Event()
        self._give_sign(0)
        threading.Thread(target=self._live, name="gradscope-alive", daemon=True).start()

    def _answer(self, call: bytes, cancelled: Callable[[], bool]) -> Any:
        stop = self._sign.with_name(f"call-{uuid.uuid4().hex}.stop")
        job = self._submitted(call, stop)
        try:
            return self._awaited(job, cancelled)
        except BaseException:
            self._end(job, stop)  # nobody waits for it any more
            raise
        finally:
            stop.unlink(missing_ok=True)

    def _submitted(self, call: bytes, stop: Path) -> Any:
        try:
            with self._asking:
                return self._jobs.submit(in_job, call, self._limit, str(stop), str(self._sign), self._beat * 8)
        except Exception as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"the cluster took no job: {line}") from None

    def _awaited(self, job: Any, cancelled: Callable[[], bool]) -> Any:
        asked = time.monotonic()
        while not self._done(job, force := time.monotonic() - asked > ASK):
            if cancelled():
                raise WorkerLostError("cancelled")
            if force:
                asked = time.monotonic()
            time.sleep(LOOK)
        try:
            well, answer = job.result()
        except Exception as error:
            raise WorkerLostError(f"its job {job.job_id} {_ended(job, error)}") from None
        if well:
            return answer
        raise answer

    def _end(self, job: Any, stop: Path) -> None:
        """Ask the job to end, which it does in order; take it out of the queue where it has not begun or does not."""
        stop.touch()
        deadline = time.monotonic() + 2 * GRACE
        with contextlib.suppress(Exception):  # of Slurm, where nothing answers
            while not self._done(job, False):
                if time.monotonic() > deadline:
                    break
                time.sleep(LOOK)
            else:
                return
        with contextlib.suppress(Exception), self._asking:  # it may be over
            job.cancel(check=False)

    def _done(self, job: Any, ask: bool) -> bool:
        with self._asking, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Slurm's accounting prints
            return bool(job.done(force_check=ask))

    def _give_sign(self, number: int) -> None:
        with contextlib.suppress(OSError):  # the next one may work
            self._sign.write_text(f"{number}\n")

    def _live(self) -> None:
        number = 1
        while not self._over.wait(self._beat):
            self._give_sign(number)
            number += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `CallExecutor`; jobs that are left end by themselves."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._over.set()
            self._sign.unlink(missing_ok=True)


def _opened(options: JobOptions, parameters: dict[str, Any]) -> Any:
    try:
        import submitit
    except ImportError:
        raise InputError(missing("the executor submitit", "submitit")) from None
    folder = checks.output_folder(options.folder, "the folder of the executor")
    try:
        jobs: Any = submitit.AutoExecutor(folder=folder, cluster=options.cluster)
        if options.cluster is None and jobs.cluster != "slurm":
            raise RuntimeError("there is no srun here")
    except RuntimeError as error:
        raise InputError(
            f"submitit finds no Slurm ({error}); run the search where sbatch works, or give cluster=local"
        ) from None
    try:
        jobs.update_parameters(**parameters)
    except (NameError, AssertionError, ValueError) as error:
        raise InputError(f"submitit does not take what the executor says: {str(error).splitlines()[0]}") from None
    return jobs


def _ended(job: Any, error: Exception) -> str:
    """Tell how a job ended that left no answer."""
    state = "?"
    with contextlib.suppress(Exception):
        state = str(job.state)
    log = job.paths.stderr
    return f"ended without an answer ({type(error).__name__}, state {state}); its log is {log}"


def in_job(call: bytes, limit: float | None, stop: str, sign: str, patience: float) -> tuple[bool, Any]:
    """Run the call, inside a job, in its own process; end it when the search asks for that, or is gone.

    Args:
        call: from `packed`.
        limit: seconds for the call, None for any number.
        stop: a file that is there when the call was cancelled.
        sign: the file that the search writes to while it lives.
        patience: seconds without anything new in it.

    Returns:
        True and what the call returned, or False and what it raised.
    """
    over = _Over(Path(stop), Path(sign), patience)
    if over():
        return False, WorkerLostError("cancelled")
    try:
        return True, follow(start_worker(), call, dict(os.environ), limit=limit, cancelled=over)
    except Exception as error:
        return False, error


class _Over:
    """Tells whether nobody waits for an answer any more; clocks of other machines play no part."""

    def __init__(self, stop: Path, sign: Path, patience: float) -> None:
        self._stop, self._sign, self._patience = stop, sign, patience
        self._known, self._since, self._looked = "", time.monotonic(), -math.inf

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._looked > self._patience / 8:
            self._looked, text = now, ""
            with contextlib.suppress(OSError):
                text = self._sign.read_text()
            if text and text != self._known:
                self._known, self._since = text, now
        return self._stop.exists() or now - self._since > self._patience
