"""Searches of the delayed level on real training whose runs are long, or too short for weak penalties to speak.

A delayed run has to be followed for five e-folding times after its penalty came on, unless its outcome is clear before.
Runs of few epochs end sooner, the sooner the weaker the penalty: what does a search say then, and is it true?
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import gradscope
from analyses.common.digits import at_once
from analyses.tolerance_search.oracles import Trained, driven
from analyses.tolerance_search.tables import Table, rows
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


def searches() -> Table:
    """The recorded result. ``said``: ``level`` with its interval, or on which side, or ``nothing``."""
    columns = ("epochs", "seed", "said", "tolerance", "low", "high", "from", *TOLD, "steps")
    return Table("delayed.csv", columns, ("epochs", "seed"))


def grid() -> Table:
    """Whether a delayed run of 50 epochs failed, and after how many e-folding times the judge had said so."""
    return Table("delayed_grid.csv", ("strength", "seed", "failed", "word", "after"), ("strength", "seed"))


def run(made: Table, brute: Table) -> None:
    """All searches and grid runs that the tables do not hold yet."""
    cells = [(epochs, seed) for seed in range(SEARCHES) for epochs in EPOCHS]
    jobs = [cell for cell in cells if {"epochs": cell[0], "seed": cell[1]} not in made]
    for (epochs, seed), row in at_once(search, jobs, 2):
        made.add({"epochs": epochs, "seed": seed, **row})
    runs = [(strength, seed) for seed in range(GRID_SEEDS) for strength in GRID]
    left = [one for one in runs if {"strength": one[0], "seed": one[1]} not in brute]
    for (strength, seed), row in at_once(full, left, 2):
        brute.add({"strength": strength, "seed": seed, **row})


def oracle(epochs: int, folder: str) -> Trained:
    """Real runs of so many epochs, with a delay."""

    def train(strength: float, seed: int, path: Path) -> None:
        trial(LAYERS, epochs, strength, seed, path)

    return Trained(train, Path(folder), SCHEDULE)


def search(job: tuple[int, int]) -> dict[str, object]:
    """One search in runs of so many epochs."""
    epochs, seed = job
    with tempfile.TemporaryDirectory() as folder:
        found = driven(ToleranceSearch(LOW, HIGH, seed=seed), oracle(epochs, folder))
    e = found.estimate()
    sides = [side for side in ("below", "above") if f"the level lies {side}" in e.reason]
    return {
        "said": "level" if e.determined else sides[0] if sides else "nothing",
        "tolerance": e.tolerance or np.nan, "low": e.low or np.nan, "high": e.high or np.nan,
        "from": 10**found.posterior.low, "failed": sum(t.failed > 0.5 for t in found.told),
        "learned": sum(t.failed < 0.5 for t in found.told), "silent": sum(t.silent for t in found.told),
        "steps": sum(t.steps for t in found.told),
    }  # fmt: skip


def full(job: tuple[float, int]) -> dict[str, object]:
    """One run that is not stopped, and what the judge would have stopped it for."""
    strength, seed = job
    with tempfile.TemporaryDirectory() as folder:
        answer = oracle(EPOCHS[0], folder)
        told = answer(Trial(seed, strength, seed, audit=True))
        with gradscope.open_run(answer.record) as dataset:
            judge = judge_record(dataset)
    word = {True: "failed", False: "learned", None: "none"}[told.early_failed]
    step = judge.failure.decided if told.early_failed and judge.failure else judge.settled_step
    acted = np.nan if step is None else e_foldings(judge.series, int(np.searchsorted(judge.series.step, step)) + 1)
    return {"failed": int(told.failed > 0.5), "word": word, "after": acted}


def tell() -> None:
    """What the tables say, as the README has it."""
    runs = rows("delayed_grid.csv")
    posterior = posterior_of([Outcome(float(r["strength"]), float(r["failed"])) for r in runs])
    low, level, high = (float(10 ** posterior.quantile(q)) for q in (0.025, 0.5, 0.975))
    print(f"{len(runs)} full runs: level {level:.4f} ({low:.4f} … {high:.4f})")
    for strength in GRID:
        here = [r for r in runs if float(r["strength"]) == strength]
        said = ", ".join(f"{r['word']} {float(r['after']):.1f}" for r in here)
        print(f"  {strength:g}: {sum(r['failed'] == '1' for r in here)} of {len(here)} fail; {said}")
    for epochs in EPOCHS:
        here = [r for r in rows("delayed.csv") if int(r["epochs"]) == epochs]
        named = [r for r in here if r["said"] == "level"]
        print(f"{epochs} epochs: {dict(Counter(r['said'] for r in here))}, trials and silent ones, medians: "
              f"{np.median([sum(int(r[k]) for k in TOLD) for r in here]):g}, "
              f"{np.median([int(r['silent']) for r in here]):g}")  # fmt: skip
        if named:
            held = sum(float(r["low"]) <= level <= float(r["high"]) for r in named)
            width = np.median([np.log10(float(r["high"]) / float(r["low"])) for r in named])
            middle = np.median([float(r["tolerance"]) for r in named])
            print(f"  {held} of {len(named)} intervals hold it, median width {width:.3f}, level {middle:.4f}")
        print("  said to lie below", sorted(float(r["from"]) for r in here if r["said"] == "below"))


if __name__ == "__main__":
    tell()
