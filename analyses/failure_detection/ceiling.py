"""How much anyone can know after two epochs (40 core-minutes).

A run near λ* is trained for two epochs exactly as in the benchmark, and from there on with another order of the data,
``--copies`` times. What the copies come to is what could be known at that point of what the run itself came to,
to the last bit of its state: a score that no judge of any kind can be expected to beat by more than the noise
of so few copies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.common.tasks import task
from analyses.failure_detection.check import judged_runs, of_line
from analyses.failure_detection.metrics import area, at_step, auroc
from analyses.failure_detection.records import told, verdicts
from analyses.failure_detection.run import below_baseline
from analyses.failure_detection.training import losses_beyond

EPOCHS = 2
OPTIMIZERS = ("sgd", "plain", "adam", "adamw")


def continued(cell: Cell, asked: Options) -> Row:
    """How many of the copies of a run fail."""
    row = judged_runs()[cell["run"]]
    run = of_line(row)
    steps, at = run.configuration.steps, EPOCHS * int(row["batches"])
    baseline = task(run.configuration.task).baseline
    failed = 0
    for copy in range(cell["copies"]):
        end = float(np.mean(losses_beyond(run, steps, reshuffled=(at, copy))[-max(1, steps // 20) :]))
        failed += not below_baseline(end, baseline)
    return {"failed": failed}


def near_runs() -> list[Row]:
    """The lines of the runs within ±6 % of λ* that last longer than two epochs."""
    rows = [row for row in judged_runs().values() if row["stratum"] == "near"]
    return [row for row in rows if EPOCHS * int(row["batches"]) < int(row["steps"])]


def cells(asked: Options) -> list[Cell]:
    """Every configuration comes early, so that a study that is cut short is not about the first ones."""
    runs = sorted((row["run"] for row in near_runs()), key=lambda run: str(run).rsplit("-", 1)[1])
    return [{"run": run, "copies": asked.more["copies"]} for run in runs]


def lines(folder: Path) -> list[str]:
    """The ceiling beside the judge, of all runs and by optimizer."""
    known = verdicts(folder).set_index("run")
    copies = pd.read_csv(folder / "ceiling.csv", comment="#").set_index("run")
    near = known.loc[known.index.intersection(copies.index)]
    judge = at_step(told(folder), near["batches"] * EPOCHS).reindex(near.index)
    near, judge = near[judge.notna()], judge[judge.notna()]
    share = (copies["failed"] / copies["copies"]).reindex(near.index)
    failed = near["failed"]
    found = ["| near λ*, after two epochs | its own copies | judge |", "|---|---|---|"]
    for name in ("all", *OPTIMIZERS):
        here = near["optimizer"].isin(OPTIMIZERS if name == "all" else (name,))
        found.append(f"| {name} | {auroc(failed[here], share[here])} | {auroc(failed[here], judge[here])} |")
    mixed = ((share > 0) & (share < 1)).mean()
    found += [
        "",
        f"* runs whose copies do not all come to the same: {100 * mixed:.0f} % of {len(share)}",
        f"* the best AUROC there could be if the copies' shares were the true chances: {best(share.to_numpy()):.3f}",
    ]
    return found


def best(chances: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The expected AUROC of scores that are the true chances of failing: drawn outcomes, judged by those."""
    random = np.random.default_rng(0)
    drawn = [area(random.random(len(chances)) < chances, chances) for _ in range(300)]
    return float(np.mean(drawn))
