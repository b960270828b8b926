"""A grid, and tune beside it: python -m analyses.useful_strength.run (carries on; about 5 core-minutes).

Every strength that tune may try, from the start and with delayed:auto, each with the same seeds; a line of grid.jsonl
a run. The runs are those of tune: ended early where they fail, to their end otherwise. Then whole tunings, each with
seeds of its own, a line of tunings.jsonl each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from analyses.useful_strength.training import HIGH, LOW, train
from gradscope.trials.run_trial import run_function_trial
from gradscope.trials.trial import Trial
from gradscope.tuning.ask_tell import DELAYED, StrengthTuning
from gradscope.tuning.tune import tune_strength

HERE = Path(__file__).parent
GRID, TUNINGS = HERE / "grid.jsonl", HERE / "tunings.jsonl"
#: Weaker strengths are not run with a delay: there it changes nothing that a start without one does not.
DELAYED_FROM = 0.008


def cells(seeds: int) -> list[tuple[int, float, str | None]]:
    """Seed by seed, so that whenever it is broken off, all strengths have had as many."""
    strengths = StrengthTuning(LOW, HIGH).strengths
    delayed: list[tuple[float, str | None]] = [(x, DELAYED) for x in strengths if x >= DELAYED_FROM]
    arms: list[tuple[float, str | None]] = [(0.0, None), *((x, None) for x in strengths), *delayed]
    return [(seed, strength, schedule) for seed in range(seeds) for strength, schedule in arms]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="of the grid")
    parser.add_argument("--tunings", type=int, default=2)
    parser.add_argument("--max-trials", type=int, default=40, help="of a tuning")
    given = parser.parse_args()
    done = set()
    if GRID.exists():
        for line in GRID.read_text().splitlines()[1:]:
            row = json.loads(line)
            done.add((row["seed"], row["strength"], row["schedule"]))
    else:
        about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "torch": torch.__version__}
        about |= {"date": time.strftime("%Y-%m-%d"), "command": "python -m analyses.useful_strength.run"}
        GRID.write_text(json.dumps(about) + "\n")
    _grid(given.seeds, done)
    for seed in range(1, given.tunings + 1):
        _tuning(seed, given.max_trials)


def _tuning(seed: int, max_trials: int) -> None:
    """One more line of the tunings, if it is not there."""
    lines = TUNINGS.read_text().splitlines() if TUNINGS.exists() else []
    if any(json.loads(line)["seed"] == seed for line in lines):
        return
    folder = Path(tempfile.gettempdir()) / f"useful-strength-{seed}"  # a tuning that was broken off goes on there
    how: dict[str, Any] = {"delayed": True, "seed": seed, "max_trials": max_trials}
    found = tune_strength(train, LOW, HIGH, metric="accuracy", out=folder, **how)
    told = {name: value for name, value in found.as_dict().items() if name != "runs"}
    arms = [[t.strength, t.schedule, t.seed, t.steps, t.value if t.counts else None] for t in found.trials]
    with TUNINGS.open("a") as file:
        file.write(json.dumps({"seed": seed, **told, "arms": arms}) + "\n")


def _grid(seeds: int, done: set[tuple[int, float, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder, GRID.open("a") as file:
        for seed, strength, schedule in cells(seeds):
            if (seed, strength, schedule) in done:
                continue
            plan = Trial(0, strength, seed, False, schedule, whole=True)
            trial = run_function_trial(train, plan, Path(folder) / "run.h5", "l2", "accuracy")
            row = {"seed": seed, "strength": strength, "schedule": schedule, "verdict": trial.verdict}
            row |= {"failed": round(trial.failed, 4), "steps": trial.steps, "stopped": trial.stopped_early}
            row |= {"counts": trial.counts, "accuracy": trial.value}
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
