"""A first look at the judge: python -m analyses.judge_first_look.run (about ten minutes on two cores).

Writes verdicts.csv (what the judge says live against the label at the horizon) and switch_on.csv (how
well a run ends if the penalty comes on when the loss has fallen by a share of the baseline).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import gradscope
from analyses.common.digits import Setting, at_once, train
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.thresholds import Thresholds

HERE = Path(__file__).parent
SHARES = (0.05, 0.2, 0.5, 0.8)
GRID = {
    6: (0.03, (0.0, 0.03, 0.056, 0.075, 0.1)),
    8: (0.03, (0.0, 0.0237, 0.0316, 0.0422, 0.056, 0.075, 0.09)),
    10: (0.03, (0.0, 0.01, 0.02, 0.03, 0.04, 0.056, 0.075, 0.1)),
    16: (0.02, (0.0, 0.01, 0.02, 0.03, 0.048, 0.07)),
}
DELAYED = (
    (6, "pytorch", 0.03, (0.03, 0.04, 0.056, 0.075)),
    (8, "pytorch", 0.03, (0.02, 0.03, 0.04)),
    (8, "he", 0.03, (0.075,)),
    (10, "he", 0.03, (0.056,)),
    (16, "he", 0.02, (0.048,)),
)


def verdict(setting: Setting) -> dict[str, Any]:
    """One run, judged live; the label at its horizon beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        reached = train(setting, path)
        with gradscope.open_run(path) as dataset:
            judge = judge_record(dataset)
    live = judge.diagnosis()
    return {
        **dataclasses.asdict(setting),
        "learned": judge.learned(),
        "live": str(live.verdict),
        "final": str(judge.diagnosis(finished=True).verdict),
        "decided_step": live.decided_step if live.failed else None,
        "active_step": judge.active_step,
        "settled_step": judge.settled_step,
        "accuracy": round(reached, 4),
    }


def switch_on(setting: Setting) -> list[dict[str, Any]]:
    """The same run with the penalty switched on at each share of the baseline loss."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        train(dataclasses.replace(setting, strength=0.0), path)
        with gradscope.open_run(path) as dataset:
            steps = [judge_record(dataset, Thresholds(established=share)).active_step for share in SHARES]
        for share, step in zip(SHARES, steps, strict=True):
            delayed = None if step is None else dataclasses.replace(setting, delay=step)
            reached = None if delayed is None else round(train(delayed, path), 4)
            rows.append({**dataclasses.asdict(setting), "share": share, "delay": step, "accuracy": reached})
    return rows


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """A table with the machine and the date in its first line."""
    rows.sort(key=lambda row: [str(v) for v in row.values()])
    with (HERE / name).open("w", newline="") as file:
        cpu = platform.processor() or platform.machine()
        file.write(f"# {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, {platform.system()} {cpu}\n")
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("verdicts", "switch_on"))
    given = parser.parse_args()
    if given.only != "switch_on":
        verdicts(given.workers, given.seeds)
    if given.only != "verdicts":
        switches(given.workers, given.seeds)


def verdicts(workers: int, seeds: int) -> None:
    """verdicts.csv."""
    settings = [
        Setting(layers, init, lr, strength, seed, delay)
        for layers, (lr, strengths) in GRID.items()
        for init in ("he", "pytorch")
        for strength in strengths
        for seed in range(seeds)
        for delay in ((0, 230) if strength >= 0.04 else (0,))
    ]
    rows = []
    for _, row in at_once(verdict, settings, workers):
        rows.append(row)
        print(f"{len(rows)}/{len(settings)}", end="\r", flush=True)
    write("verdicts.csv", rows)


def switches(workers: int, seeds: int) -> None:
    """switch_on.csv."""
    delayed = [
        Setting(layers, init, lr, strength, seed)
        for layers, init, lr, strengths in DELAYED
        for strength in strengths
        for seed in range(seeds)
    ]
    rows: list[dict[str, Any]] = []
    for _, more in at_once(switch_on, delayed, workers):
        rows += more
        print(f"{len(rows)}/{len(delayed) * len(SHARES)}", end="\r", flush=True)
    write("switch_on.csv", rows)


if __name__ == "__main__":
    main()
