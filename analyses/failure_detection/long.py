"""The same failures in runs four times as long (15 core-minutes).

How late a verdict comes as a share of the horizon hangs on the horizon. Every configuration is trained at .8, 1.25 and
2 of its λ*, and judged by the model that was fitted on the other families.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.common.tasks import task
from analyses.failure_detection.families import CONFIGURATIONS
from analyses.failure_detection.fit import fit, read_features
from analyses.failure_detection.metrics import FAILING, share
from analyses.failure_detection.records import Labelled, cause, labelled, load
from analyses.failure_detection.run import below_baseline, round_to
from analyses.failure_detection.score import switched_on
from analyses.failure_detection.training import Run, train
from gradscope.diagnosis import measures
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.probability import Model

TIMES = 4
STRENGTHS = (0.8, 1.25, 2.0)  # of λ*


@functools.cache
def held_out(family: str) -> Model:
    """Fitted on all other families."""
    table = read_features()
    return fit(table[table["family"] != family])


@functools.cache
def known() -> tuple[dict[str, float], dict[str, bool]]:
    """Of each configuration λ*, the last one found being the best, and whether it learns without a penalty."""
    runs = labelled()
    levels = {run.configuration: run.tolerance for run in runs if np.isfinite(run.tolerance)}
    return levels, {run.configuration: not run.failed for run in runs if run.stratum == "none"}


def cells(asked: Options) -> list[Cell]:
    """Every configuration at every strength."""
    chosen = [c for c in CONFIGURATIONS if c.family in asked.more["families"]]
    return [{"run": f"{c.key}/long-{number}"} for c in chosen for number in range(len(STRENGTHS))]


def judged(cell: Cell, asked: Options) -> Row:
    """Train one run, label it, and ask the judge."""
    key, _, number = cell["run"].rpartition("/long-")
    c, number = next(c for c in CONFIGURATIONS if c.key == key), int(number)
    levels, learning = known()
    level, learns = levels[key], learning[key]
    longer = dataclasses.replace(c, steps=TIMES * c.steps)
    run = Run(longer, "long", number, round_to(STRENGTHS[number] * level))
    with tempfile.TemporaryDirectory() as folder:
        train(run, Path(folder))
        rows, info = load(run.key, Path(folder))
    loss, baseline = rows["loss"].astype(np.float64), task(c.task).baseline
    end = float(np.mean(loss[-len(loss) // 20 :]))
    finite = bool((rows["nonfinite_count"] == 0).all()) and np.isfinite(end)
    label = Labelled(
        run.key, c.family, run.stratum, run.strength, level, longer.steps, not below_baseline(end, baseline),
        bool(finite), c.optimizer, 1 - end / baseline,
    )  # fmt: skip
    judge = Judge(info, model=held_out(c.family))
    judge.update(rows)
    diagnosis, series = judge.diagnosis(), judge.series
    top = int(series.step[measures.shrinking_since(series, len(series))])
    return {
        "family": c.family, "optimizer": c.optimizer, "penalty": c.penalty, "strength": run.strength,
        "tolerance": f"{level:.5g}", "steps": longer.steps, "failed": label.failed,
        "cause": cause(label, series, learns), "live": diagnosis.verdict, "began": max(switched_on(series), top),
        "decided_step": diagnosis.decided_step if diagnosis.failed else "",
    }  # fmt: skip


def told(table: pd.DataFrame) -> str:
    """The figures of merit in words."""
    said = table["live"].isin(FAILING)
    bad = table[table["cause"].isin(("collapsed", "diverged"))]
    caught = bad[said[bad.index]]
    late = (caught["decided_step"] - caught["began"]).clip(lower=0) / caught["steps"]
    early = (late <= 0.03).sum(), (late <= 0.15).sum()
    return (
        f"{len(table)} runs; false alarms {share(int(said[~table['failed']].sum()), int((~table['failed']).sum()))}; "
        f"caught {share(len(caught), len(bad))}; delay: median {100 * late.median():.1f} %, 95 % within "
        f"{100 * late.quantile(0.95):.1f} % of the horizon; {early[0]} within 3 %, {early[1]} within 15 %"
    )
