"""Searches whose trials are judged beside the finished ones, by the product itself (about four core-minutes).

A search of the level in each configuration, with seeds that the benchmark has not seen, and siblings weighed by a model
of the other families. Each trial that was ended beside its siblings is trained again without any, for the steps that
it saved; every trial is trained again to its horizon, for its label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np

import gradscope
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.common.tasks import task
from analyses.failure_detection.families import CONFIGURATIONS, Configuration
from analyses.failure_detection.run import below_baseline
from analyses.failure_detection.siblings import beside, fitted, table
from analyses.failure_detection.training import Run, loop, losses_beyond, prepared
from gradscope.diagnosis import siblings
from gradscope.diagnosis.siblings import SiblingModel
from gradscope.trials.run_trial import run_function_trial
from gradscope.trials.trial import Trial

#: By family and number of the configuration in it: AdamW, AdamW, SGD, Adam, AdamW.
WHERE = (("mlp-shallow", 3), ("mlp-pairs", 3), ("mlp-deep", 1), ("mlp-deep", 3), ("conv", 3))
TRIALS = 8


def cells(asked: Options) -> list[Cell]:
    """The configurations."""
    of = {name: [c for c in CONFIGURATIONS if c.family == name] for name, _ in WHERE}
    return [{"configuration": of[name][number].key} for name, number in WHERE]


def of_key(key: str) -> Configuration:
    """The configuration of that name."""
    return next(c for c in CONFIGURATIONS if c.key == key)


@cache
def model_without(family: str) -> SiblingModel:
    """The model of the other families."""
    rows = table()
    return fitted(beside(rows[rows["family"] != family], None, {"shuffled": False, "alone": False}))


def training(c: Configuration) -> Callable[[float, int, Path], None]:
    """The configuration as a search trains it."""

    def train(strength: float, seed: int, path: Path) -> None:
        run = Run(c, "searched", seed, strength)
        model, optimizer = prepared(run)
        with gradscope.record(model, optimizer, path, horizon=c.steps) as recording:
            loop(run, model, optimizer, c.steps, lambda loss: recording.log(loss=loss))

    return train


def searched(cell: Cell, asked: Options) -> Row:
    """One search."""
    c = of_key(cell["configuration"])
    train = training(c)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(siblings, "shipped_siblings", lambda: model_without(c.family)),
    ):
        found = gradscope.search_tolerance(train, c.low, c.high, out=Path(folder) / "s", max_trials=TRIALS, seed=1)
        ended = [t for t in found.trials if "beside" in " ".join(gradscope.diagnose(t.path).evidence)]
        alone = [run_function_trial(train, again(t), Path(folder) / "again.h5", "l2") for t in ended]
    failed = [fails(c, t) for t in found.trials]
    wrong = [t.number for t, truth in zip(found.trials, failed, strict=True) if (t.failed > 0.5) != truth]
    without = sum(t.steps for t in found.trials) - sum(t.steps for t in ended) + sum(t.steps for t in alone)
    return {
        "trials": len(found.trials), "failed": sum(failed), "ended_beside": len(ended),
        "steps_of_these": sum(t.steps for t in ended), "steps_of_these_alone": sum(t.steps for t in alone),
        "steps": sum(t.steps for t in found.trials), "steps_alone": without,
        "wrong": len(wrong), "wrong_beside": sum(t.number in wrong for t in ended),
    }  # fmt: skip


def again(trial: Trial) -> Trial:
    """The plan of a trial, without its siblings."""
    return replace(Trial(trial.number, trial.strength, trial.seed), audit=trial.audit)


def fails(c: Configuration, trial: Trial) -> bool:
    """The label, of the run to its horizon."""
    losses = losses_beyond(Run(c, "searched", trial.seed, trial.strength), c.steps)
    return not below_baseline(float(np.mean(losses[-c.steps // 20 :])), task(c.task).baseline)


def told(rows: Sequence[Row]) -> str:
    """All searches together."""
    total = {name: sum(int(row[name]) for row in rows) for name in rows[0] if name.split("_")[0] in
             ("trials", "failed", "ended", "steps", "wrong")}  # fmt: skip
    return (
        f"{len(rows)} searches, {total['trials']} trials, of which {total['failed']} fail: {total['ended_beside']} "
        f"were ended beside their siblings, after {total['steps_of_these']} steps in place of "
        f"{total['steps_of_these_alone']}; all together {total['steps']} in place of {total['steps_alone']}; "
        f"wrong outcomes {total['wrong']}, of those ended beside siblings {total['wrong_beside']}"
    )
