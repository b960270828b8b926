"""The frame of a study: what it trains or measures, its tables and its figures, and how they are asked for.

A folder's ``study.py`` holds one `Study` by the name ``STUDY``; ``python -m analyses run|plot|check NAME`` finds it.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analyses.common.machine import stamp
from analyses.common.results import Cell, Results, Row
from gradscope.trials.executors import open_executor
from gradscope.types import InputError

ANALYSES = Path(__file__).parents[1]
#: The second is a document's own protocol; the last two are for a card, and for trying that.
SCALES = ("small", "paper", "card", "tiny")
#: Imported once for all trainings, each in a process of its own: four seconds a cell, two of them for kernels.
PRELOADED = (
    "torch",
    "gradscope.recording.opening",
    "gradscope.report.summary",
    "gradscope.recorder.kernels.host_statistics",
)


@dataclass(frozen=True)
class Options:
    """What a study was asked for. ``results``: the file of the part at work; ``more``: the study's own options."""

    dataset: str
    scale: str
    seeds: int
    device: str
    data: Path
    workers: int
    executor: str
    only: tuple[str, ...]
    results: Path
    minutes: float = math.inf
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def paper(self) -> bool:
        """The document's own protocol, not the small one."""
        return self.scale == "paper"

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.results.parent

    @property
    def ending(self) -> str:
        """What tells the tables and figures of this file from those of the usual one, which have nothing."""
        return "" if self.results.stem == "small-digits" else f"-{self.results.stem}"


Train = Callable[[Cell, Options], Row | list[Row]]


@dataclass(frozen=True)
class Part:
    """Cells and what makes their rows: ``train``, a function of a module, as it runs in a process of its own.

    ``file``: of the rows; parts that are one and the same share their cells, which look at ``only`` themselves.
    ``here``: one cell after the other in this process, for what takes milliseconds, or measures time.
    """

    cells: Callable[[Options], Sequence[Cell]]
    train: Train
    file: str = "{scale}-{dataset}.jsonl"
    here: bool = False

    def asked(self, asked: Options) -> Options:
        """The same with this part's file."""
        named = self.file.format(scale=asked.scale, dataset=asked.dataset, device=asked.device)
        return replace(asked, results=asked.out / named)

    def planned(self, asked: Options) -> list[Cell]:
        """All of its cells."""
        return list(self.cells(self.asked(asked)))

    def __call__(self, asked: Options) -> int:
        """Make the rows that are missing; how many still are."""
        here, planned = self.asked(asked), self.planned(asked)
        complete(self.train, planned, here, here=self.here)
        left = Results(here.results).left(planned)
        print(f"{here.results}: {len(planned) - len(left)} of {len(planned)} cells", file=sys.stderr)
        return len(left)


#: A part, or a step that is none of cells: makes a file from others, prints; may return how much of it is missing.
Step = Part | Callable[[Options], int | None]
#: Draws a figure into a file.
Drawing = Callable[[Path], object]


@dataclass(frozen=True)
class Study:
    """One folder of `analyses`.

    ``tables``, ``figures``: what ``plot`` writes, by file name, from the results in a folder. ``checks``: what else has
    to agree with them, a line each for what does not. ``look``: reads what cannot be missing, before anything is
    trained. ``datasets``: the defaults at small and at paper scale. ``seeds``: a cell; None where that is no option.
    ``scales``: those it has; none without ``datasets``.
    ``usual``: the parts that are run unless ``--only`` names others. ``options``: by flag, as argparse takes them.
    """

    name: str
    parts: Mapping[str, Step]
    tables: Callable[[Path], Mapping[str, str]] | None = None
    figures: Callable[[Path], Mapping[str, Drawing]] | None = None
    checks: Callable[[Path], Iterable[str]] | None = None
    look: Callable[[Options], object] | None = None
    datasets: tuple[str, str] | None = None
    scales: tuple[str, ...] = SCALES[:2]
    seeds: int | None = None
    usual: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The folder of the recorded results."""
        return ANALYSES / self.name / "results"

    def run(self, asked: Options) -> int:
        """Do the parts asked for, each thing once; how many cells are missing at the end.

        Raises `InputError` where nothing is planned.
        """
        if self.look is not None:
            self.look(asked)
        began, missing, done = time.monotonic(), 0, 0
        for step in dict.fromkeys(self.parts[name] for name in asked.only):
            if isinstance(step, Part) and not step.planned(asked):  # asked now: a part may need rows of one before it
                continue
            left = asked.minutes - (time.monotonic() - began) / 60
            missing += step(replace(asked, minutes=left)) or 0
            done += 1
        if not done:
            raise InputError(
                f"nothing of --only {' '.join(asked.only)} is planned at {asked.scale} scale, or the rows that it "
                f"begins with are not in {asked.out}"
            )
        return missing

    def plot(self, results: Path, out: Path) -> list[Path]:
        """Write all tables and figures of these results; their paths."""
        tables = self.tables(results) if self.tables else {}
        figures = self.figures(results) if self.figures else {}
        out.mkdir(parents=True, exist_ok=True)
        for name, text in tables.items():
            (out / name).write_text(text, encoding="utf-8")
        for name, draw in figures.items():
            draw(out / name)
        return [out / name for name in (*tables, *figures)]

    def check(self, results: Path) -> list[str]:
        """What of these results does not agree with the rest, a line each; nothing is trained and nothing written."""
        wrong = []
        for name, text in (self.tables(results) if self.tables else {}).items():
            path = results / name
            there = path.read_text(encoding="utf-8") if path.exists() else ""
            changed = (line for line in difflib.ndiff(there.splitlines(), text.splitlines()) if line[:1] in "+-")
            if there != text:
                wrong.append(f"{path} is not what the results give; first: {next(changed, 'the end of a line')}")
        drawn = self.figures(results) if self.figures else {}
        wrong += [f"{results / name} is not there; plot draws it" for name in drawn if not (results / name).exists()]
        return [*wrong, *(self.checks(results) if self.checks else ())]


def recorded_in(folder: Path, seeds: int = 1) -> list[Options]:
    """One for each file SCALE-SET.jsonl of a folder. Raises `InputError` where there is none."""
    found = []
    for path in sorted(folder.glob("*-*.jsonl")):
        scale, _, dataset = path.stem.partition("-")
        if scale in SCALES:
            found.append(Options(dataset, scale, seeds, "cpu", Path(), 1, "local", (), path))
    if not found:
        raise InputError(f"{folder} holds no training; the study's run command makes it")
    return found


def complete(train: Train, cells: Iterable[Cell], asked: Options, *, here: bool = False) -> list[Row]:
    """The rows of every cell, in their order; what the results do not hold is trained and appended to them.

    A row is ``{**cell, **measured, seconds, core_seconds, machine, torch, date}``. A training that fails costs its own
    cell: it is named on standard error, and stays missing. After ``asked.minutes`` no training begins.
    """
    cells, results = list(cells), Results(asked.results, asked.device)
    with results.alone():
        if untrained := results.left(cells):
            for rows in (_here if here else _trained)(train, untrained, asked):
                results.append(*rows)
    return results.of(cells)


def _here(train: Train, cells: Sequence[Cell], asked: Options) -> Iterator[list[Row]]:
    progress = _Progress(len(cells))
    for done, cell in enumerate(cells):
        if progress.seconds > 60 * asked.minutes:
            progress.over(len(cells) - done)
            return
        try:
            yield _measured(train, cell, asked)
        except Exception as error:
            progress.fails(cell, error)
        progress.show(done + 1)


def _trained(train: Train, cells: Sequence[Cell], asked: Options) -> Iterator[list[Row]]:
    executor, workers = open_executor(asked.executor, asked.workers, None, preload=(*PRELOADED, train.__module__))
    progress, done = _Progress(len(cells)), 0
    waiting = list(cells)
    running: dict[Future[list[Row]], Cell] = {}
    try:
        while waiting or running:
            if waiting and progress.seconds > 60 * asked.minutes:
                progress.over(len(waiting))
                waiting = []
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                running[executor.submit(_measured, train, cell, asked)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                done += 1
                error = future.exception()
                if error is None:
                    yield future.result()
                else:
                    progress.fails(cell, error)
                progress.show(done)
    finally:
        for future in running:
            future.cancel()
        executor.shutdown()


def _measured(train: Train, cell: Cell, asked: Options) -> list[Row]:
    started, busy = time.perf_counter(), time.process_time()
    found = train(cell, asked)
    took = {
        "seconds": round(time.perf_counter() - started, 1),
        "core_seconds": round(time.process_time() - busy, 1),
        **stamp(asked.device),
    }
    # What a study measures itself under one of these names stands.
    return [{**cell, **row, **took, **row} for row in (found if isinstance(found, list) else [found])]


class _Progress:
    """A line on standard error, at most one a second."""

    def __init__(self, of: int) -> None:
        self.of, self.failed = of, 0
        self._began, self._shown = time.monotonic(), -math.inf

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def over(self, left: int) -> None:
        """The time is up."""
        print(f"{left} not begun, as the minutes are over", file=sys.stderr)

    def fails(self, cell: Cell, error: BaseException) -> None:
        """A cell that stays missing."""
        self.failed += 1
        print(f"failed: {json.dumps(cell)}: {error}", file=sys.stderr)

    def show(self, done: int) -> None:
        """So many are done."""
        if done < self.of and self.seconds < self._shown + 1:
            return
        self._shown = self.seconds
        rest = self.seconds / done * (self.of - done) / 60
        line = f"{done} of {self.of} done, {self.failed} failed, about {rest:.0f} min to go"
        same = sys.stderr.isatty() and done < self.of
        print(line, end="\r" if same else "\n", file=sys.stderr, flush=True)
