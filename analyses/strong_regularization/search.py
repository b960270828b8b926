"""Tolerance levels of the study's nets: by gradscope's search, from the start and with a delay; by a prediction."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import gradscope
from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.strong_regularization.plan import FIRST_SEED, cell
from analyses.strong_regularization.training import run

#: Where to look, by penalty: wide enough for every net here and for the document's readings.
RANGES = {"l2": (1e-4, 0.3), "l1": (1e-5, 1.0), "l1-subgradient": (1e-6, 0.1)}
#: Width of the interval to reach, in decades, and trials at most a level.
PRECISION, TRIALS = 0.2, 16
#: So many times the level, up or down, reach the trials that are trained to their end afterwards.
NEAR = 1.5


def trial(net: str, penalty: str, asked: Options, strength: float, seed: int, path: Path) -> None:
    """One trial, which the search ends as soon as its outcome is clear."""
    run(cell(net, penalty, strength, "constant", FIRST_SEED + seed), asked, path, sparse=False)


def search(wanted: Cell, asked: Options) -> Row:
    """Both levels of one net and penalty, with their 95 % intervals.

    Its folder is beside the results until it ends: a search that is interrupted goes on.
    """
    net, penalty = wanted["net"], wanted["penalty"]
    low, high = RANGES[penalty]
    same = replace(asked, seeds=1, workers=1, executor="local", only=())  # what may differ when it goes on
    folder = asked.results.parent / "searches" / f"{asked.results.stem}-{net}-{penalty}"
    found = gradscope.search_tolerance(
        functools.partial(trial, net, penalty, same), low, high, penalty=penalty.partition("-")[0],
        delayed=True, out=folder, precision=PRECISION, max_trials=TRIALS,
    )  # fmt: skip
    shutil.rmtree(folder)
    shown = found.as_dict()
    names = ("determined", "reason", "tolerance", "low", "high", "slope", "delayed_tolerance", "delayed_low")
    kept = {name: shown[name] for name in (*names, "delayed_high", "delayed_reason", "trials", "steps_run")}
    kept["trials_from_start"] = len(found.trials)
    return {**kept, "trials_of": [[t["strength"], round(t["failed"], 3)] for t in shown["runs"]]}


def audited(asked: Options) -> list[Cell]:
    """The trials near a searched level, from the start, once more and to their end: was it right to end them early?

    Those that were called failing come first: where that is right they cost little.
    """
    found: list[Cell] = []
    for row in Results(asked.results).rows():
        if row.get("trials_from_start") and row["tolerance"] is not None:
            for number, (strength, said) in enumerate(row["trials_of"][: row["trials_from_start"]]):
                if 1 / NEAR <= strength / row["tolerance"] <= NEAR:
                    again = cell(row["net"], row["penalty"], strength, "constant", FIRST_SEED + number)
                    found.append({**again, "said": said})
    return sorted(found, key=lambda one: one["said"] < 0.5)


def suggest(wanted: Cell, asked: Options) -> Row:
    """What `gradscope.suggest_strength` says of one net and penalty before any training of it has ended."""
    net, penalty = wanted["net"], wanted["penalty"]
    same = replace(asked, seeds=1, workers=1, executor="local", only=())
    with tempfile.TemporaryDirectory() as folder:
        found = gradscope.suggest_strength(
            functools.partial(trial, net, penalty, same), penalty=penalty, out=folder
        ).as_dict()
    return {name: found[name] for name in ("determined", "tolerance", "low", "high", "steps_run", "reason", "probes")}
