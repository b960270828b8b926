"""How much anyone can know after two epochs: python -m analyses.failure_detection.ceiling (resumable; 40 core-minutes).

A run near λ* is trained for two epochs exactly as in the benchmark, and from there on with another order of the data,
``--copies`` times. What the copies come to is what could be known at that point of what the run itself came to,
to the last bit of its state: a score that no judge of any kind can be expected to beat by more than the noise
of so few copies.
"""

from __future__ import annotations

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.common.tasks import task
from analyses.failure_detection.check import of_line
from analyses.failure_detection.metrics import area, at_step, auroc
from analyses.failure_detection.records import HERE
from analyses.failure_detection.run import Table, below_baseline
from analyses.failure_detection.training import losses_beyond
from gradscope import checks

EPOCHS = 2
FIELDS = ("run", "copies", "failed")
OPTIMIZERS = ("sgd", "plain", "adam", "adamw")


def continued(row: dict[str, str], copies: int) -> dict[str, object]:
    """How many of the copies of a run fail; ``row``: its line in verdicts.csv."""
    run = of_line(row)
    steps, at = run.configuration.steps, EPOCHS * int(row["batches"])
    baseline = task(run.configuration.task).baseline
    failed = 0
    for copy in range(copies):
        end = float(np.mean(losses_beyond(run, steps, reshuffled=(at, copy))[-max(1, steps // 20) :]))
        failed += not below_baseline(end, baseline)
    return {"run": run.key, "copies": copies, "failed": failed}


def near_runs() -> list[dict[str, str]]:
    """The lines of the runs within ±6 % of λ* that last longer than two epochs."""
    with Path(HERE / "verdicts.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stratum"] == "near"]
    return [row for row in rows if EPOCHS * int(row["batches"]) < int(row["steps"])]


def lines() -> list[str]:
    """The ceiling beside the judge, of all runs and by optimizer."""
    verdicts = pd.DataFrame(near_runs()).set_index("run")
    copies = pd.read_csv(HERE / "ceiling.csv").set_index("run")
    verdicts = verdicts.loc[verdicts.index.intersection(copies.index)]
    looks = pd.read_csv(HERE / "probabilities.csv.gz")
    judge = at_step(looks, verdicts["batches"].astype(int) * EPOCHS).reindex(verdicts.index)
    verdicts, judge = verdicts[judge.notna()], judge[judge.notna()]
    share = (copies["failed"] / copies["copies"]).reindex(verdicts.index)
    failed = verdicts["failed"] == "True"
    found = ["| near λ*, after two epochs | its own copies | judge |", "|---|---|---|"]
    for name in ("all", *OPTIMIZERS):
        here = verdicts["optimizer"].isin(OPTIMIZERS if name == "all" else (name,))
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


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    copies, workers = checks.positive_int(given.copies, "--copies"), checks.positive_int(given.workers, "--workers")
    table = Table(HERE / "ceiling.csv", FIELDS)
    missing = [row for row in near_runs() if row["run"] not in table.rows]
    # Every configuration comes early, so that a study that is cut short is not about the first ones.
    missing.sort(key=lambda row: row["run"].rsplit("-", 1)[1])
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        for done in as_completed(pool.submit(continued, row, copies) for row in missing):
            table.add(done.result())
            print(f"{len(table.rows)} runs", flush=True)
    print("\n".join(lines()))


if __name__ == "__main__":
    main()
