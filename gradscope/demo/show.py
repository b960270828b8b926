"""`gradscope demo`: record, diagnose, restart and search on real data, through the functions that users call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from gradscope import checks
from gradscope.demo import training
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import Strength
from gradscope.report.figures import figure_of, save
from gradscope.report.page.document import report
from gradscope.report.summary import RunSeries, accuracy_by_strength, load_run, over_time
from gradscope.restart.attempt import Attempt
from gradscope.restart.history import RunResult
from gradscope.store.record import Record
from gradscope.tolerance.result import Progress, ToleranceResult
from gradscope.tolerance.search import search_tolerance
from gradscope.trials.local import RECORDING, LocalExecutor
from gradscope.types import InputError

STRENGTH = 0.04
TOO_STRONG = Strength(STRENGTH, "l2")
SEEDS = (0, 1, 2)
SEARCHED = (1e-3, 1.0)
SWEPT = (0.001, 0.003, 0.006, 0.01, 0.02, 0.07, 0.15)
FEATURED = (0.003, 0.01, STRENGTH)
STEPS = 4


def show(out: Path, workers: int | None = None) -> dict[str, Any]:
    """Run the demonstration into a new folder, and return what its ``summary.json`` holds."""
    started = time.monotonic()
    folder = checks.output_folder(out, "out")
    if (folder / "summary.json").exists():
        raise InputError(f"{folder} already holds a demo (summary.json); give another folder with --out")
    workers = workers or min(2, os.cpu_count() or 1)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # One process has imported everything; each training is a fork of it.
    trainings = LocalExecutor(workers, devices=(), preload=[training.__name__, *RECORDING])
    with ExitStack() as at_the_end:
        at_the_end.callback(trainings.shutdown, cancel_futures=True)
        progress = at_the_end.enter_context(Bars(*columns, console=console))
        task = progress.add_task("", total=STEPS)

        def say(line: str) -> None:
            progress.console.print(line, highlight=False)

        def begin(line: str) -> None:
            progress.update(task, description=line)

        begin(f"1/{STEPS} training with {TOO_STRONG}, too strong")
        full = folder / "too-strong.h5"
        sweep = _to_the_end(trainings, [(2 * STRENGTH, 0, full), *_sweep(folder)])
        with Record(full) as record:
            found, steps = judge_record(record).diagnosis(finished=record.finished), record.rows
        say(_first_words(full, found, steps))
        progress.advance(task)

        begin(f"2/{STEPS} the same strength again, with a delay")
        runs = _restarts(folder, trainings)
        for seed, run in zip(SEEDS, runs, strict=True):
            say(f"seed {seed}: {_story(run)}")
        progress.advance(task)

        begin(f"3/{STEPS} searching the tolerance level")
        level = _search(folder, trainings, workers, begin)
        say(f"tolerance level {_level(level)}: {level.advice}")
        progress.advance(task)

        begin(f"4/{STEPS} drawing")
        _figures(folder, load_run(full, f"{TOO_STRONG.short}, from the start"), runs, sweep, level)
        _report(folder, full, runs)
        progress.advance(task)
    summary = _summary(folder, found, steps, runs, level, time.monotonic() - started)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    _print(summary, console)
    return summary


def _to_the_end(trainings: Executor, jobs: Sequence[tuple[float, int, Path]]) -> list[Path]:
    """Train at several strengths to the end, and return the records of all but the first, which are the sweep."""
    for future in [trainings.submit(training.train, *job) for job in jobs]:
        future.result()
    return [path for _, _, path in jobs[1:]]


def _sweep(folder: Path) -> list[tuple[float, int, Path]]:
    return [(2 * strength, 0, folder / f"sweep-{strength:g}.h5") for strength in SWEPT]


def _restarts(folder: Path, trainings: Executor) -> list[RunResult]:
    """Train once a seed: stopped when it fails, restarted with `delayed:auto`."""
    jobs = [(2 * STRENGTH, seed, folder / f"restart-seed-{seed}") for seed in SEEDS]
    return [future.result() for future in [trainings.submit(training.train_with_restarts, *job) for job in jobs]]


def _search(folder: Path, trainings: Executor, workers: int, begin: Callable[[str], None]) -> ToleranceResult:
    def told(now: Progress) -> None:
        e = now.estimate
        known = f"{e.low:.3g} … {e.high:.3g}" if e.determined else "not bracketed yet"
        begin(f"3/{STEPS} searching the tolerance level: {now.trials} trials, {known}, about {now.rest} to come")

    return search_tolerance(
        training.trial,
        *SEARCHED,
        workers=workers,
        executor=trainings,
        out=folder / "search",
        precision=0.25,
        max_trials=14,
        on_trial=told,
    )


# -- words ----------------------------------------------------------------------------------------


def last_accuracy(path: Path) -> float:
    """Return the last validation accuracy of a record."""
    with Record(path) as record:
        values = record.metrics["accuracy"]
    known = values[np.isfinite(values)]  # a run that was stopped has begun an epoch it did not finish
    return float(known[-1])


def _first_words(path: Path, found: Diagnosis, steps: int) -> str:
    return (
        f"{TOO_STRONG} ends at accuracy {last_accuracy(path):.2f} after "
        f"{steps} steps; the record shows: {found.sentence}"
    )


def _story(run: RunResult) -> str:
    parts = []
    for attempt in run.attempts:
        where = f"stopped at step {attempt.stopped_step}" if attempt.stopped_step else f"{attempt.steps} steps"
        parts.append(f"{attempt.schedule or 'constant'}: {where}, accuracy {last_accuracy(attempt.path):.2f}")
    return "; ".join(parts)


def _level(level: ToleranceResult) -> str:
    e = level.estimate
    return f"{e.tolerance:.3g} ({e.low:.3g} … {e.high:.3g})" if e.determined else f"not determined ({e.reason})"


def _figures(
    folder: Path, failed: RunSeries, runs: Sequence[RunResult], sweep: Sequence[Path], level: ToleranceResult
) -> None:
    """Draw figures after Figures 1, 2 and 5 of Park et al."""
    swept = [load_run(path) for path in sweep]
    from_start = sorted([*swept, failed], key=lambda run: run.strength)
    delayed = [load_run(run.attempts[-1].path) for run in runs if len(run.attempts) > 1]
    featured = [run for run in from_start if np.isclose(run.strength, FEATURED).any()]
    shown = [replace(run, label=Strength(run.strength, "l2").short) for run in featured]
    groups: dict[str, Sequence[RunSeries]] = {"from the start": from_start}
    if delayed:
        groups["delayed:auto"] = delayed
    accuracies = accuracy_by_strength(groups)
    one = figure_of([replace(accuracies, title="Validation accuracy"), over_time(shown, "loss")])
    axes = one.axes[0]
    axes.set_ylim(0, 1)
    if level.determined and level.low and level.high:
        axes.axvspan(level.low, level.high, color="#999999", alpha=0.35, label="tolerance level, 95 %")
        axes.legend(fontsize=8, frameon=False)
    save(one, folder / "figure-1-accuracy-and-loss.png")
    panels = [over_time(shown, name) for name in ("gradient", "gradient-closeup", "proportion")]
    save(figure_of(panels), folder / "figure-2-gradients.png")
    pair = [failed, *(replace(run, label=f"{TOO_STRONG.short}, delayed:auto") for run in delayed[:1])]
    save(
        figure_of([over_time(pair, "gradient-closeup"), over_time(pair, "weight")]),
        folder / "figure-5-failed-against-delayed.png",
    )


def _report(folder: Path, full: Path, runs: Sequence[RunResult]) -> None:
    """Write the page of the failed run beside the same one delayed."""
    delayed = [run.attempts[-1].path for run in runs[:1] if len(run.attempts) > 1]
    report([full, *delayed], folder / "report.html")


def _summary(
    folder: Path,
    found: Diagnosis,
    steps: int,
    runs: Sequence[RunResult],
    level: ToleranceResult,
    seconds: float,
) -> dict[str, Any]:
    def told(attempt: Attempt) -> dict[str, Any]:
        with Record(attempt.path) as record:
            strength = record.strength.value
        return {**attempt.as_dict(), "strength": strength, "accuracy": last_accuracy(attempt.path)}

    return {
        "folder": str(folder.resolve()),
        "strength": TOO_STRONG.value,
        "weight_decay": TOO_STRONG.weight_decay,
        "too_strong": {
            "path": str(folder / "too-strong.h5"),
            "accuracy": last_accuracy(folder / "too-strong.h5"),
            "steps": steps,
            "diagnosis": found.as_dict(),
        },
        "restarts": [
            {"seed": seed, "learned": run.learned, "attempts": [told(a) for a in run.attempts]}
            for seed, run in zip(SEEDS, runs, strict=True)
        ],
        "tolerance": {k: v for k, v in level.as_dict().items() if k != "runs"},
        "report": str(folder / "report.html"),
        "figures": sorted(str(path) for path in folder.glob("*.png")),
        "seconds": round(seconds, 1),
    }


def _print(summary: dict[str, Any], console: Console) -> None:
    table = Table(title=str(TOO_STRONG), title_justify="left")
    for heading in ("seed", "from the start", "stopped at", "delayed:auto", "penalty on at"):
        table.add_column(heading, justify="right")
    for run in summary["restarts"]:
        first, last = run["attempts"][0], run["attempts"][-1]
        again = len(run["attempts"]) > 1
        table.add_row(
            str(run["seed"]),
            f"{first['accuracy']:.2f}",
            str(first["stopped_step"]),
            f"{last['accuracy']:.2f}" if again else "–",
            str(switched_on(Path(last["path"]))) if again else "–",
        )
    console.print(table)
    found = summary["too_strong"]["diagnosis"]
    share = found["decided_step"] / summary["too_strong"]["steps"]
    console.print(
        f"The failure could have been known at step {found['decided_step']} of {summary['too_strong']['steps']} "
        f"({share:.0%} of the run).\n{summary['tolerance']['advice']}.\n"
        f"Records, figures and report.html: {summary['folder']} ({summary['seconds']:.0f} s)",
        highlight=False,
        soft_wrap=True,
    )


def switched_on(path: Path) -> int | None:
    """Return the step at which the penalty of a record came on."""
    with Record(path) as record:
        return record.switched_on
