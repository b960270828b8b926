"""Automatic restarts of runs that fail, against every fixed delay.

``brute-force``: every fixed delay, to the horizon. ``restarts``: the same runs under `gradscope.Restarts`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from analyses.common.results import Cell, Row
from analyses.common.study import Options, Part, Study
from analyses.delayed_restart import plot
from analyses.delayed_restart.brute_force import Member, train
from analyses.delayed_restart.training import SETTINGS, restarted

SEEDS = (0, 1, 2, 3, 4)
DELAYS = (0, 2, 5, 10, 20)  # epochs; 0: from the start

#: From below the tolerance level to above the delayed one, by a first look at both.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "mlp-8": (0.075, 0.09, 0.07, 0.05),
    "mlp-12": (0.06, 0.09, 0.05, 0.03),
    "mlp-16": (0.06, 0.09, 0.07, 0.03),
    "mlp-8-default-init": (0.01, 0.06, 0.02, 0.0005),
    "conv-8": (0.1, 0.4, 0.05, 0.02),
    "pairs-mlp-12": (0.016, 0.03, 0.1),
    "mlp-10-l1": (0.03, 0.06, 0.016, 0.12, 0.25),
}


def brute_force(cell: Cell, asked: Options) -> list[Row]:
    """All seeds and delays of a setting at one strength, at once."""
    members = [Member(cell["strength"], seed, delay) for seed in SEEDS for delay in DELAYS]
    started = time.process_time()
    found = train(SETTINGS[cell["setting"]], members)
    seconds = (time.process_time() - started) / len(members)
    return [
        {**dataclasses.asdict(member), "learned": learned, "accuracy": round(accuracy, 4),
         "cpu_seconds": round(seconds, 2)}
        for member, (learned, accuracy) in zip(members, found, strict=True)
    ]  # fmt: skip


def restarts(cell: Cell, asked: Options) -> Row:
    """One supervised run."""
    started = time.process_time()
    found = restarted(SETTINGS[cell["setting"]], cell["strength"], cell["seed"])
    first, last = found.attempts[0], found.attempts[-1]
    again = len(found.attempts) > 1
    return {
        "learned": found.learned, "accuracy": round(found.accuracy, 4), "attempts": len(found.attempts),
        "first_verdict": first.diagnosis.verdict, "first_steps": first.steps,
        "first_active": first.diagnosis.active_step, "last_verdict": last.diagnosis.verdict,
        "last_steps": last.steps if again else None, "switched_on": last.switched_on if again else None,
        "steps": found.steps, "cpu_seconds": round(time.process_time() - started, 2), "reason": found.reason,
    }  # fmt: skip


def in_turn(asked: Options) -> Iterator[Cell]:
    """One strength of every setting, then the next: whenever it is broken off, all settings have had their turn."""
    settings = asked.more["settings"]
    for turn in range(max(len(STRENGTHS[name]) for name in settings)):
        for name in settings:
            if turn < len(STRENGTHS[name]):
                yield {"setting": name, "strength": STRENGTHS[name][turn]}


def every_seed(asked: Options) -> list[Cell]:
    """Of every setting and strength."""
    return [{**cell, "seed": seed} for cell in in_turn(asked) for seed in SEEDS]


STUDY = Study(
    "delayed_restart",
    {
        "brute-force": Part(lambda asked: list(in_turn(asked)), brute_force, plot.FIXED),
        "restarts": Part(every_seed, restarts, plot.RESTARTED),
    },
    plot.tables, plot.figures,
    options={"--settings": {"nargs": "+", "choices": tuple(STRENGTHS), "default": tuple(STRENGTHS)}},
)  # fmt: skip
