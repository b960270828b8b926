"""The frame of a study: its command line, and its cells trained once each, several at a time, and never twice."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import functools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradscope import checks
from gradscope.trials.executors import checked, open_executor
from gradscope.types import InputError

#: What identifies a training (strength, seed, ...), and what was measured in it: plain JSON values by name.
Cell = dict[str, Any]
Row = dict[str, Any]


#: Imported once for all trainings, each in a process of its own: four seconds a cell, two of them for kernels.
PRELOADED = (
    "torch",
    "gradscope.recording.opening",
    "gradscope.report.summary",
    "gradscope.recorder.kernels.host_statistics",
)


@dataclass(frozen=True)
class Options:
    """What a study was asked for. ``results`` holds a row a trained cell, as JSON lines."""

    dataset: str
    scale: str
    seeds: int
    device: str
    data: Path
    workers: int
    executor: str
    only: tuple[str, ...]
    results: Path

    @property
    def paper(self) -> bool:
        """The document's own protocol, not the small one."""
        return self.scale == "paper"


def options(description: str, folder: Path, parts: Sequence[str], datasets: tuple[str, str], seeds: int) -> Options:
    """The command line that every study has. ``datasets``: the default at small and at paper scale.

    Raises `InputError` for what cannot be; what is no option at all argparse says itself.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", choices=("small", "paper"), default="small", help="minutes on two cores, or days")
    parser.add_argument("--dataset", help=f"default: {datasets[0]}, at paper scale {datasets[1]}")
    parser.add_argument("--seeds", type=int, default=seeds, help="seeds a cell; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda; default: %(default)s")
    parser.add_argument("--data", type=Path, default=Path("data"), help="torchvision's files; an archive of CIFAR-10")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="trainings at a time")
    parser.add_argument("--executor", default="local", help="local, or dask://HOST:PORT")
    parser.add_argument("--only", nargs="+", choices=tuple(parts), default=tuple(parts), help="parts of the study")
    parser.add_argument("--out", type=Path, default=folder, help="where the results go")
    given = parser.parse_args()
    dataset = given.dataset or datasets[given.scale == "paper"]
    checked(given.executor)
    return Options(
        dataset, given.scale, checks.positive_int(given.seeds, "--seeds"), device_here(given.device), given.data,
        given.workers, given.executor, tuple(given.only), given.out / f"{given.scale}-{dataset}.jsonl",
    )  # fmt: skip


def device_here(name: str) -> str:
    """``cpu``, or a CUDA device of this machine."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device is {name!r}; expected cpu, or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device is {name}, and {torch.cuda.device_count()} CUDA devices are here; expected cpu")
    return name


def command(main: Callable[[], int | None]) -> Callable[[], None]:
    """A study's command, from one that may return how many cells are missing at its end: then the exit code is 1.

    What was asked for and cannot be is one line and exit code 2, as with gradscope's own commands.
    """

    @functools.wraps(main)
    def ends() -> None:
        try:
            missing = main()
        except InputError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(130)
        if missing:
            sys.exit(1)

    return ends


def rows_of(results: Path) -> list[Row]:
    """What was trained so far. A last line that was cut off while it was written is left out."""
    if not results.exists():
        return []
    lines = results.read_text().split("\n")
    try:
        return [json.loads(line) for line in lines[:-1]]
    except ValueError:
        raise InputError(f"{results} has a line that is no JSON; expected one training a line") from None


def recorded(results: Path) -> list[Row]:
    """What was trained, for tables and figures of it. Raises `InputError` where there is nothing."""
    if not (rows := rows_of(results)):
        raise InputError(f"{results} holds no training; the study's run command makes it")
    return rows


def asked_results(description: str, folder: Path) -> tuple[list[Row], str]:
    """The rows that ``--results NAME`` asks for, and what NAME adds to the names of files (nothing for the default)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", default="small-digits", help="SCALE-SET of a results file; default: %(default)s")
    name = parser.parse_args().results
    return recorded(folder / f"{name}.jsonl"), "" if name == "small-digits" else f"-{name}"


def missing(train: Callable[[Cell, Options], Row], planned: Sequence[Cell], asked: Options) -> int:
    """Train these cells; how many are missing at the end. Raises `InputError` where nothing is planned."""
    if not planned:
        raise InputError(f"nothing of --only {' '.join(asked.only)} is trained at {asked.scale} scale")
    return len(planned) - len(complete(train, planned, asked))


def complete(
    train: Callable[[Cell, Options], Row], cells: Iterable[Cell], asked: Options, minutes: float = math.inf
) -> list[Row]:
    """The row of every cell, in their order; what the results do not hold is trained and appended to them.

    ``train(cell, asked)`` is a function of a module, as it runs in a process of its own; it returns what it
    measured. A row is ``{**cell, **measured, seconds, core_seconds, machine, torch, date}``. A training that fails
    costs its own cell: it is named on standard error, and stays missing. After so many ``minutes`` no training begins.
    """
    cells = list(cells)
    names = sorted({name for cell in cells for name in cell})
    with _alone(asked.results):
        found = {_key(row, names): row for row in rows_of(asked.results)}
        if untrained := [cell for cell in cells if _key(cell, names) not in found]:
            for row in _trained(train, untrained, asked, minutes):
                found[_key(row, names)] = row
    return [found[_key(cell, names)] for cell in cells if _key(cell, names) in found]


@contextlib.contextmanager
def _alone(results: Path) -> Iterator[None]:
    """One command at a time adds to a file: two would train the same cells, and cut each other's lines."""
    checks.writable_folder(results.parent)
    with results.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another command is adding to {results}; wait for it, or give another folder with --out"
            ) from None
        yield


def _key(values: Row, names: Sequence[str]) -> str:
    return json.dumps([values.get(name) for name in names])


def _trained(
    train: Callable[[Cell, Options], Row], cells: Sequence[Cell], asked: Options, minutes: float
) -> Iterable[Row]:
    executor, workers = open_executor(asked.executor, asked.workers, None, preload=(*PRELOADED, train.__module__))
    started, done, failed = time.monotonic(), 0, 0
    waiting = list(cells)
    running: dict[Future[Row], Cell] = {}
    try:
        while waiting or running:
            if waiting and time.monotonic() - started > 60 * minutes:
                print(f"{len(waiting)} not begun, as {minutes:g} min are over", file=sys.stderr)
                waiting = []
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                running[executor.submit(_measured, train, cell, asked)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                done += 1
                error = future.exception()
                if error is None:
                    row = {**cell, **future.result()}
                    _append(asked.results, row)
                    yield row
                else:
                    failed += 1
                    print(f"failed: {json.dumps(cell)}: {error}", file=sys.stderr)
                _progress(done, len(cells), failed, time.monotonic() - started)
    finally:
        for future in running:
            future.cancel()
        executor.shutdown()


def _measured(train: Callable[[Cell, Options], Row], cell: Cell, asked: Options) -> Row:
    started, busy = time.perf_counter(), time.process_time()
    row = train(cell, asked)
    return {
        **row,
        "seconds": round(time.perf_counter() - started, 1),
        "core_seconds": round(time.process_time() - busy, 1),
        "machine": machine(asked.device),
        "torch": torch.__version__,
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    }


def machine(device: str = "cpu") -> str:
    """The card, or the processor and its cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}"


def _append(results: Path, row: Row) -> None:
    """One line, whole: a torn line of a killed run before it is cut off first."""
    with results.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(row).encode() + b"\n")


def _progress(done: int, of: int, failed: int, seconds: float) -> None:
    rest = seconds / done * (of - done) / 60
    line = f"{done} of {of} trained, {failed} failed, about {rest:.0f} min to go"
    terminal = sys.stderr.isatty()
    print(line, end="\r" if terminal and done < of else "\n", file=sys.stderr, flush=True)
