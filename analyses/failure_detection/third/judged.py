"""Train and judge one case of the third edition, and carry out the remedy that is proposed."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.failure_detection.baselines import thermoclaw
from analyses.failure_detection.score import switched_on
from analyses.failure_detection.third.cases import CASES, Case
from analyses.failure_detection.third.gan import PAIRS, Pair
from analyses.failure_detection.third.remedies import NUMBER, Attempt, attempts
from gradscope.diagnosis import measures
from gradscope.diagnosis.cause import PENALTY, UNKNOWN
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.quantities import JUDGED
from gradscope.store.record import Record

#: Sentences that are carried out after the first, where a run does not learn by that.
FOLLOWED = 2
NAMES = [case.name for case in CASES] + [f"{pair.name}, {side}" for pair in PAIRS for side in ("G", "D")]


def cells(asked: Options) -> list[Cell]:
    """Every case, seed by seed."""
    wanted = asked.more["cases"]
    names = [name for name in NAMES if not wanted or name in wanted]
    seeds = asked.more["from_seed"] + np.arange(asked.seeds)
    return [{"run": f"{name}/{seed}"} for seed in seeds for name in names]


def judged(cell: Cell, asked: Options) -> Row:
    """Train and judge one case."""
    torch.set_num_threads(1)
    name, _, seed = cell["run"].rpartition("/")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pair = next((pair for pair in PAIRS if name in (f"{pair.name}, G", f"{pair.name}, D")), None)
        if pair is not None:
            row = _pair(pair, name[-1], int(seed), Path(folder))
        else:
            row = _case(next(case for case in CASES if case.name == name), int(seed), Path(folder))
    return {"kind": name, **row, "seconds": f"{time.monotonic() - began:.1f}"}


def _case(case: Case, seed: int, folder: Path) -> Row:
    path = folder / "run.h5"
    losses = case.train(path, seed)
    failed = case.fails(losses)
    row = {"optimizer": case.optimizer, "right": "|".join(case.right), "label": failed, **_said(path, case.steps)}
    done, works, more, then = "", "", "", ""
    if failed and (tried := attempts(case, row["remedy"], path)):
        done, works = _tried(tried, case, seed, folder / "first.h5")
        if works == "False" and not tried[-1].tells:
            more, then = _followed(tried[-1].case, case, seed, folder)
    return {**row, "done": done, "works": works, "more": more, "then": then}


def _tried(tried: list[Attempt], case: Case, seed: int, path: Path) -> tuple[str, str]:
    """Carry out one after the other until it learns: what was done, and whether it did.

    The record is that of the last one.
    """
    done = []
    for attempt in tried:
        done.append(attempt.words)
        if _works(attempt, case, seed, path):
            return "|".join(done), "True"
    return "|".join(done), "False"


def _followed(begun: Case, case: Case, seed: int, folder: Path) -> tuple[str, str]:
    """Carry out what is said of the run that a remedy did not make learn: what was done, and whether it learns."""
    path, done = folder / "first.h5", []
    for number in range(FOLLOWED):
        tried = attempts(begun, _said(path, begun.steps)["remedy"], path)
        if not tried or tried[-1].tells:
            break
        path = folder / f"then-{number}.h5"
        words, works = _tried(tried, case, seed, path)
        done.append(words)
        if works == "True":
            return "; ".join(done), works
        begun = tried[-1].case
    return "; ".join(done), "False" if done else ""


def _works(attempt: Attempt, case: Case, seed: int, path: Path) -> bool:
    """Train what a remedy says: whether it learns, with its penalty if that was to come on late.

    Of an experiment: whether its outcome is the truth about the penalty.
    """
    learns = not attempt.case.fails(attempt.case.train(path, seed))
    if attempt.tells:
        return learns == (PENALTY in case.right)
    if attempt.case.delay and learns:
        with Record(path) as record:
            strengths = np.concatenate([block["strength"] for block in record.blocks(("strength",))])
        return bool(np.nan_to_num(strengths)[-1].max() > 0)
    return learns


def _pair(pair: Pair, side: str, seed: int, folder: Path) -> Row:
    failed = _fails(pair, side, seed, folder)
    path = folder / ("generator.h5" if side == "G" else "discriminator.h5")
    row = _said(path, pair.steps)
    done, works = "", ""
    told = re.search(rf"learning rate to about {NUMBER}", row["remedy"])
    if failed and told:
        rates = (float(told[1]), pair.rates[1]) if side == "G" else (pair.rates[0], float(told[1]))
        done, works = f"lr {told[1]}", str(not _fails(replace(pair, rates=rates), side, seed, folder))
    right = pair.right if side == "G" or not pair.right else UNKNOWN
    return {
        "optimizer": "adam", "right": right, "label": failed, **row, "done": done, "works": works, "more": "",
        "then": "",
    }  # fmt: skip


def _fails(pair: Pair, side: str, seed: int, folder: Path) -> bool:
    trained = pair.train(folder, seed)
    return not (trained.draws if side == "G" else trained.tells)


def _said(path: Path, steps: int) -> Row:
    """What judge, rules and thermoclaw say of a record."""
    with Record(path) as record:
        judge, checker = Judge(record.info), Checker(record.info)
        feed({judge: JUDGED, checker: NEEDED}, record)
        told = judge.diagnosis(finished=True)
        live = judge.failure or (judge.withdrawn[0] if judge.withdrawn else None)
        called = None if live is None or live.decided >= steps - 1 else live.decided
        names = ("loss_gradient_norm", "weight_norm", "penalised")
        rows = {name: np.concatenate([block[name] for block in record.blocks(names[:2])]) for name in names[:2]}
        stops = thermoclaw({**rows, "names": record.info.parameters, "penalised": record.info.penalised}, 0)
    return {
        "failed": told.failed, "verdict": str(told.verdict), "cause": told.cause,
        "called": "" if called is None else called, "late": "" if called is None else f"{_late(judge, called):.3g}",
        "share": "" if called is None else f"{100 * max(0, called - _began(judge)) / steps:.3g}",
        "steps": steps, "findings": "|".join(sorted({f.rule for f in checker.findings})), "thermoclaw": stops,
        "remedy": told.remedy,
    }  # fmt: skip


def _began(judge: Judge) -> int:
    """The step at which the penalty came on, or that of the last maximum of the weights."""
    series = judge.series
    return max(switched_on(series), int(series.step[measures.shrinking_since(series, len(series))]))


def _late(judge: Judge, called: int) -> float:
    """E-folding times of the penalty between then and the call."""
    n, began = (int(np.searchsorted(judge.series.step, step, side="right")) for step in (called, _began(judge)))
    return measures.e_foldings(judge.series, n, min(began, n))
