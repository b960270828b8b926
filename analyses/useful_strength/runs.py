"""The trainings of the study: a grid of strengths, whole tunings, and studies of Optuna's at as many steps.

The runs of the grid are those of tune: ended early where they fail, to their end otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.useful_strength.beside import optuna_alone
from analyses.useful_strength.tasks import TASKS, named, train
from gradscope.trials.run_trial import run_function_trial
from gradscope.trials.trial import Trial
from gradscope.tuning.ask_tell import DELAYED, StrengthTuning
from gradscope.tuning.tune import tune_strength

GRID, TUNINGS, OPTUNA = "grid.jsonl", "tunings.jsonl", "optuna.jsonl"
#: Seeds of a tuning's trainings begin at 100,000 times its own, that of Optuna's at its own plus this.
OPTUNAS = 50_000
#: Options of the study's command line.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--tasks": {"nargs": "+", "choices": tuple(TASKS), "default": tuple(TASKS), "help": "default: all"},
    "--repeats": {"type": int, "default": 5, "help": "tunings of each task, and as many studies of Optuna's"},
    "--delayed-repeats": {"type": int, "default": 3, "help": "tunings that try delays, too"},
}


def grid(asked: Options) -> list[Cell]:
    """Every strength of a task, seed by seed, so that whenever it is broken off, all have had as many.

    From the start those that tune may try, no penalty beside them; then the task's delayed ones.
    """
    found: list[Cell] = []
    for task in map(named, asked.more["tasks"]):
        strengths = StrengthTuning(task.low, task.high).strengths
        arms: list[tuple[float, str | None]] = [(0.0, None), *((x, None) for x in strengths)]
        late = [(x, DELAYED) for x in strengths if task.delayed and task.delayed[0] <= x <= task.delayed[1]]
        for chosen in (arms, late):
            found += [
                {"task": task.name, "seed": seed, "strength": strength, "schedule": schedule}
                for seed in range(asked.seeds)
                for strength, schedule in chosen
            ]
    return found


def run(cell: Cell, asked: Options) -> Row:
    """One training of the grid."""
    plan = Trial(0, cell["strength"], cell["seed"], False, cell["schedule"], whole=True)
    with tempfile.TemporaryDirectory() as folder:
        trial = run_function_trial(partial(train, cell["task"]), plan, Path(folder) / "run.h5", "l2", "accuracy")
    return {
        "verdict": trial.verdict, "failed": round(trial.failed, 4), "steps": trial.steps,
        "stopped": trial.stopped_early, "acted": trial.acted, "accuracy": trial.value,
        "constant": named(cell["task"]).data().constant,
    }  # fmt: skip


def tunings(asked: Options) -> list[Cell]:
    """Repeats of each task; then those that try delays, too."""
    tasks = list(map(named, asked.more["tasks"]))
    found = [(t.name, k, False) for t in tasks for k in range(asked.more["repeats"])]
    found += [(t.name, k, True) for t in tasks if t.delayed for k in range(asked.more["delayed_repeats"])]
    return [{"task": task, "seed": 1 + k, "delayed": delayed} for task, k, delayed in found]


def tuning(cell: Cell, asked: Options) -> Row:
    """One tuning; one that was broken off goes on."""
    task = named(cell["task"])
    folder = Path(tempfile.gettempdir()) / f"useful-strength-{task.name}-{cell['seed']}-{cell['delayed']}"
    found = tune_strength(
        partial(train, task.name), task.low, task.high, metric="accuracy", out=folder, delayed=cell["delayed"],
        seed=cell["seed"],
    )  # fmt: skip
    told = {name: value for name, value in found.as_dict().items() if name not in ("runs", "out")}
    return {**told, "arms": [[t.strength, t.schedule, t.seed, t.steps, t.measured] for t in found.trials]}


def studies(asked: Options) -> list[Cell]:
    """Two for every tuning from the start that is there."""
    those = [r for r in Results(asked.out / TUNINGS).rows() if not r["delayed"] and r["task"] in asked.more["tasks"]]
    those = [row for row in those if row["seed"] <= asked.more["repeats"]]
    return [{"task": r["task"], "seed": r["seed"], "patient": patient} for patient in (False, True) for r in those]


def study(cell: Cell, asked: Options) -> Row:
    """Optuna alone, at as many steps as the tuning of the same number."""
    key = {"task": cell["task"], "seed": cell["seed"], "delayed": False}
    (beside,) = Results(asked.out / TUNINGS).of([key])
    return vars(optuna_alone(named(cell["task"]), OPTUNAS + cell["seed"], beside["steps_run"], cell["patient"]))
