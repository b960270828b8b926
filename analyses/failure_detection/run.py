"""The runs of the benchmark (resumable; see README.md for the time it takes).

Each run is trained to its horizon and labelled by it; its line goes to runs.csv at once, the rows that the judge would
have seen to the cache. Which run is next hangs on what came of those before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analyses.common.results import Results, Row
from analyses.common.study import Options
from analyses.common.tasks import task
from analyses.failure_detection.families import CONFIGURATIONS, Configuration
from analyses.failure_detection.training import Change, Run, train
from gradscope.tolerance.posterior import Posterior
from gradscope.trials.trial import Outcome

TRIALS, NEAR, NEAR_WIDTH = 7, 6, 0.06


def below_baseline(loss: float, baseline: float) -> bool:
    """The label of the contract: 5 % better than the best constant predictor."""
    return loss < 0.95 * baseline


def done(runs: Results, run: Run, cache: Path, level: float = math.nan) -> Row:
    """The line of a run, trained now unless it was before."""
    known = runs.by("run").get(run.key)
    if known is not None and (cache / run.file).exists():
        return known
    began = time.monotonic()
    train(run, cache)
    with np.load(cache / run.file) as kept:
        loss, finite = kept["loss"].astype(np.float64), bool((kept["nonfinite_count"] == 0).all())
    end = float(np.mean(loss[-max(1, len(loss) // 20) :]))
    c, baseline = run.configuration, task(run.configuration.task).baseline
    runs.append({
        "run": run.key, "family": c.family, "stratum": run.stratum, "optimizer": c.optimizer, "penalty": c.penalty,
        "learning_rate": f"{c.lr * run.change.lr:g}", "strength": f"{run.strength:.5g}", "tolerance": f"{level:.5g}",
        "steps": c.steps, "baseline": f"{baseline:.5g}", "loss_end": f"{end:.5g}",
        "failed": not below_baseline(end, baseline), "finite": finite and math.isfinite(end),
        "seconds": f"{time.monotonic() - began:.1f}",
    })  # fmt: skip
    return runs.by("run")[run.key]


def round_to(strength: float) -> float:
    """Three digits, as a user would write it."""
    return float(f"{strength:.3g}")


def around_the_level(runs: Results, c: Configuration, cache: Path, delayed: bool) -> float:
    """λ = 0, the search for λ*, the stratum near it, and two delayed runs if asked for. Returns λ*."""
    done(runs, Run(c, "none", 0, 0.0), cache)
    posterior = Posterior(c.low, c.high)

    def level() -> float:
        return float(10 ** posterior.quantile(0.5))

    def take(run: Run, at: float = math.nan) -> None:
        row = done(runs, run, cache, at)
        posterior.update(Outcome(run.strength, float(row["failed"] == "True")))

    for i in range(TRIALS):
        candidates, gain, _ = posterior.information()
        take(Run(c, "search", i, round_to(10 ** candidates[int(np.argmax(gain))])))
    offsets = np.random.default_rng(0).permutation(np.linspace(-1, 1, NEAR)) * math.log(1 + NEAR_WIDTH)
    for i, offset in enumerate(offsets):
        at = level()
        take(Run(c, "near", i, float(f"{at * math.exp(offset):.4g}")), at)
    if delayed and c.optimizer != "adamw":
        for i, factor in enumerate((1.5, 4.0)):
            done(runs, Run(c, "delayed", i, round_to(factor * level()), Change(delay=c.steps // 5)), cache, level())
    return level()


def hard_negatives(c: Configuration, level: float) -> Iterator[Run]:
    """Runs that learn late or oddly, if they learn: six a configuration, at a share of its λ*."""
    deep = c.layers > 5
    changes = (
        (Change(lr=0.1 if deep else 0.03), 0.3),
        (Change(warm_up=0.5), 0.5),
        (Change(dropout=0.3 if deep else 0.5), 0.25),
        (Change(label_noise=0.5), 0.25),
        (Change(init=1.4 if deep else 2.5), 0.6),  # large weights, that have to shrink first
        (Change(init=round(max(0.4, 0.05 ** (1 / c.layers)), 2)), 0.15),  # small ones: a plateau at the start
    )
    for i, (change, share) in enumerate(changes):
        yield Run(c, "hard", i, round_to(share * level), change)


def other_failures(c: Configuration, level: float, index: int) -> Iterator[Run]:
    """Failures that no penalty causes: diverging, vanishing, frozen and exploding; the first configuration has two."""
    changes = (
        (Change(lr=100.0), 0.0),
        (Change(lr=0.0), 0.5),
        (Change(init=0.1), 0.0),
        (Change(init=20.0), 0.0),
        (Change(lr=30.0), 0.1),
    )
    for i in (index, 4) if index == 0 else (index,):
        yield Run(c, "other", i, round_to(changes[i][1] * level), changes[i][0])


def train_all(asked: Options) -> None:
    """Train what is missing."""
    runs, cache = Results(asked.out / "runs.csv"), asked.more["cache"]
    with runs.alone():
        for index in asked.more["rounds"]:
            for name in asked.more["families"]:
                c = [c for c in CONFIGURATIONS if c.family == name][index]
                level = around_the_level(runs, c, cache, delayed=index < 2)
                for run in (*hard_negatives(c, level), *other_failures(c, level, index)):
                    done(runs, run, cache, level)
                print(f"{c.key}: λ* {level:.4g}", flush=True)
