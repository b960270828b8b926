"""Searches of the delayed level on real training whose runs are long, or too short for weak penalties to speak.

A delayed run has to be followed for five e-folding times after its penalty came on, unless its outcome is clear before.
Runs of few epochs end sooner, the sooner the weaker the penalty: what does a search say then, and is it true?
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import gradscope
from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.tolerance_search.oracles import Trained, driven, rounded
from analyses.tolerance_search.training import trial
from gradscope.diagnosis.measures import e_foldings
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import posterior_of
from gradscope.trials.trial import Outcome, Trial

SCHEDULE = "delayed:auto"
LAYERS = 8
LOW, HIGH = 1e-2, 1.0
#: In .075, where half of the long runs fail, 5 e-folding times are 111 steps; the penalty comes on in step 48 to 80.
EPOCHS = (50, 12, 8, 7, 6, 5, 4)
SEARCHES = 20
TOLD = ("failed", "learned", "silent")
#: Brute force: runs of 50 epochs to their horizon, over .2 decades around the level.
GRID = tuple(float(f"{0.06 * 10 ** (0.02 * k):.4g}") for k in range(11))
GRID_SEEDS = 8


def searches(asked: Options) -> list[Cell]:
    """Twenty for each length of runs. What one ``said``: ``level`` with its interval, on which side, or ``nothing``."""
    return [{"epochs": epochs, "seed": seed} for seed in range(SEARCHES) for epochs in EPOCHS]


def grid(asked: Options) -> list[Cell]:
    """Whether a delayed run of 50 epochs failed, and after how many e-folding times the judge had said so."""
    return [{"strength": strength, "seed": seed} for seed in range(GRID_SEEDS) for strength in GRID]


def oracle(epochs: int, folder: str) -> Trained:
    """Real runs of so many epochs, with a delay."""

    def train(strength: float, seed: int, path: Path) -> None:
        trial(LAYERS, epochs, strength, seed, path)

    return Trained(train, Path(folder), SCHEDULE)


def search(cell: Cell, asked: Options) -> Row:
    """One search in runs of so many epochs."""
    epochs, seed = cell["epochs"], cell["seed"]
    with tempfile.TemporaryDirectory() as folder:
        found = driven(ToleranceSearch(LOW, HIGH, seed=seed), oracle(epochs, folder))
    e = found.estimate()
    sides = [side for side in ("below", "above") if f"the level lies {side}" in e.reason]
    return rounded(
        said="level" if e.determined else sides[0] if sides else "nothing",
        tolerance=e.tolerance or np.nan, low=e.low or np.nan, high=e.high or np.nan,
        **{"from": float(10**found.posterior.low)}, failed=sum(t.failed > 0.5 for t in found.told),
        learned=sum(t.failed < 0.5 for t in found.told), silent=sum(t.silent for t in found.told),
        steps=sum(t.steps for t in found.told),
    )  # fmt: skip


def full(cell: Cell, asked: Options) -> Row:
    """One run that is not stopped, and what the judge would have stopped it for."""
    strength, seed = cell["strength"], cell["seed"]
    with tempfile.TemporaryDirectory() as folder:
        answer = oracle(EPOCHS[0], folder)
        told = answer(Trial(seed, strength, seed, audit=True))
        with gradscope.open_run(answer.record) as dataset:
            judge = judge_record(dataset)
    word = {True: "failed", False: "learned", None: "none"}[told.early_failed]
    step = judge.failure.decided if told.early_failed and judge.failure else judge.settled_step
    acted = np.nan if step is None else e_foldings(judge.series, int(np.searchsorted(judge.series.step, step)) + 1)
    return rounded(failed=int(told.failed > 0.5), word=word, after=float(acted))


def told(folder: Path) -> Iterator[str]:
    """What the tables say, as the README has it, a line each."""
    runs, made = Results(folder / "delayed_grid.csv").rows(), Results(folder / "delayed.csv").rows()
    posterior = posterior_of([Outcome(float(r["strength"]), float(r["failed"])) for r in runs])
    low, level, high = (float(10 ** posterior.quantile(q)) for q in (0.025, 0.5, 0.975))
    yield (f"{len(runs)} full runs: level {level:.4f} ({low:.4f} … {high:.4f})")
    for strength in GRID:
        here = [r for r in runs if float(r["strength"]) == strength]
        said = ", ".join(f"{r['word']} {float(r['after']):.1f}" for r in here)
        yield (f"  {strength:g}: {sum(r['failed'] == '1' for r in here)} of {len(here)} fail; {said}")
    for epochs in EPOCHS:
        here = [r for r in made if int(r["epochs"]) == epochs]
        named = [r for r in here if r["said"] == "level"]
        yield (f"{epochs} epochs: {dict(Counter(r['said'] for r in here))}, trials and silent ones, medians: "
              f"{np.median([sum(int(r[k]) for k in TOLD) for r in here]):g}, "
              f"{np.median([int(r['silent']) for r in here]):g}")  # fmt: skip
        if named:
            held = sum(float(r["low"]) <= level <= float(r["high"]) for r in named)
            width = np.median([np.log10(float(r["high"]) / float(r["low"])) for r in named])
            middle = np.median([float(r["tolerance"]) for r in named])
            yield (f"  {held} of {len(named)} intervals hold it, median width {width:.3f}, level {middle:.4f}")
        yield f"  said to lie below {sorted(float(r['from']) for r in here if r['said'] == 'below')}"
