"""A first look at the judge: early and right around both tolerance levels? When should a delayed penalty come on?

``verdicts``: what the judge says live against the label at the horizon. ``switch_on``: how well a run ends if the
penalty comes on when the loss has fallen by a share of the baseline.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import gradscope
from analyses.common.digits import Setting, train
from analyses.common.results import Cell, Row
from analyses.common.study import Options, Part, Study
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.thresholds import Thresholds

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


def verdict(cell: Cell, asked: Options) -> Row:
    """One run, judged live; the label at its horizon beside it."""
    setting = Setting(**cell)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        reached = train(setting, path)
        with gradscope.open_run(path) as dataset:
            judge = judge_record(dataset)
    live = judge.diagnosis()
    return {
        "learned": judge.learned(),
        "live": str(live.verdict),
        "final": str(judge.diagnosis(finished=True).verdict),
        "decided_step": live.decided_step if live.failed else None,
        "active_step": judge.active_step,
        "settled_step": judge.settled_step,
        "accuracy": round(reached, 4),
    }


def switch_on(cell: Cell, asked: Options) -> list[Row]:
    """The same run with the penalty switched on at each share of the baseline loss."""
    setting, rows = Setting(**cell), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        train(dataclasses.replace(setting, strength=0.0), path)
        with gradscope.open_run(path) as dataset:
            steps = [judge_record(dataset, Thresholds(established=share)).active_step for share in SHARES]
        for share, step in zip(SHARES, steps, strict=True):
            delayed = None if step is None else dataclasses.replace(setting, delay=step)
            reached = None if delayed is None else round(train(delayed, path), 4)
            rows.append({"share": share, "delay": step, "accuracy": reached})
    return rows


def verdicts(asked: Options) -> list[Cell]:
    """Strong ones also delayed by ten epochs."""
    return [
        dataclasses.asdict(Setting(layers, init, lr, strength, seed, delay))
        for layers, (lr, strengths) in GRID.items()
        for init in ("he", "pytorch")
        for strength in strengths
        for seed in range(asked.seeds)
        for delay in ((0, 230) if strength >= 0.04 else (0,))
    ]


def switches(asked: Options) -> list[Cell]:
    """Runs that are to be delayed."""
    found = [
        dataclasses.asdict(Setting(layers, init, lr, strength, seed))
        for layers, init, lr, strengths in DELAYED
        for strength in strengths
        for seed in range(asked.seeds)
    ]
    return [{name: value for name, value in cell.items() if name != "delay"} for cell in found]


STUDY = Study(
    "judge_first_look",
    {"verdicts": Part(verdicts, verdict, "verdicts.csv"), "switch_on": Part(switches, switch_on, "switch_on.csv")},
    seeds=3,
)
