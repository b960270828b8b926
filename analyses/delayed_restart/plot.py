"""The tables and the figure, from what was trained."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np

from analyses.common.results import Results, Row
from analyses.common.study import Drawing
from analyses.delayed_restart.training import SETTINGS, data

FIXED, RESTARTED = "brute_force.csv", "restarts.csv"
ALLOWED = 1.15


@dataclass(frozen=True)
class Cell:
    """One setting at one strength. ``shares``: steps of first attempt and restart together, of one full run each, and
    whether it learned.

    ``fixed``: the share of runs that learned by delay in epochs, by brute force; empty where it was not run.
    """

    setting: str
    strength: float
    runs: int
    failed: int
    learned_again: int
    attempts: int
    shares: list[tuple[float, bool]]
    accuracy: float
    fixed: dict[int, float]
    fixed_accuracy: dict[int, float]


def cells(folder: Path) -> list[Cell]:
    """Everything that was recorded, by setting and strength."""
    restarts = _by_cell(Results(folder / RESTARTED).recorded())
    fixed = _by_cell(Results(folder / FIXED).rows())
    found = []
    for (setting, strength), runs in sorted(restarts.items()):
        failed = [run for run in runs if int(run["attempts"]) > 1 or run["first_verdict"] != "healthy"]
        again = [run for run in failed if run["learned"] == "True"]
        delays = defaultdict(list)
        for run in fixed.get((setting, strength), []):
            delays[int(run["delay"])].append(run)
        found.append(
            Cell(
                setting, strength, len(runs), len(failed), len(again), max(int(run["attempts"]) for run in runs),
                [(int(run["steps"]) / horizon(setting), run["learned"] == "True") for run in failed],
                median(float(run["accuracy"]) for run in again) if again else np.nan,
                {d: float(np.mean([r["learned"] == "True" for r in of])) for d, of in sorted(delays.items())},
                {d: median(float(r["accuracy"]) for r in of) for d, of in sorted(delays.items())},
            )
        )  # fmt: skip
    return found


def _by_cell(table: Iterable[Row]) -> dict[tuple[str, float], list[Row]]:
    grouped: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in table:
        grouped[row["setting"], float(row["strength"])].append(row)
    return grouped


def horizon(setting: str) -> int:
    """Steps of one full run."""
    made = SETTINGS[setting]
    return made.epochs * -(-len(data(made.task).x) // made.batch)


def table(found: list[Cell]) -> str:
    """As it stands in the README."""
    lines = [
        "| setting | λ | failed | learned after restart | steps, of a full run | accuracy | best fixed γ |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in found:
        delays = [d for d in cell.fixed if d > 0]
        best = max(delays, key=lambda d: (cell.fixed[d], cell.fixed_accuracy[d]), default=None)
        fixed = "–" if best is None else f"{best} epochs: {cell.fixed[best]:.0%}, {cell.fixed_accuracy[best]:.2f}"
        shares = [share for share, _ in cell.shares]
        steps = f"{median(shares):.2f} (at most {max(shares):.2f})" if shares else "–"
        lines.append(
            f"| {cell.setting} | {cell.strength:g} | {cell.failed} of {cell.runs} "
            f"| {cell.learned_again} of {cell.failed} | {steps} | {cell.accuracy:.2f} | {fixed} |"
        )
    return "\n".join(lines).replace("nan", "–")


def by_delay(folder: Path) -> str:
    """The runs that failed below the delayed tolerance: after their restart, and the same ones with fixed delays."""
    runs = Results(folder / FIXED).rows()
    fixed = {(r["setting"], float(r["strength"]), r["seed"], int(r["delay"])): r for r in runs}
    delays = sorted({key[3] for key in fixed} - {0})
    below = {(c.setting, c.strength) for c in cells(folder) if any(c.fixed.get(d) == 1 for d in delays)}
    failed = [r for r in Results(folder / RESTARTED).rows() if int(r["attempts"]) > 1]
    failed = [r for r in failed if (r["setting"], float(r["strength"])) in below]
    lines = ["| delay | learned | mean accuracy |", "|---|---|---|"]
    same = {"auto": failed} | {
        str(d): [fixed[r["setting"], float(r["strength"]), r["seed"], d] for r in failed] for d in delays
    }
    for delay, found in same.items():
        learned = sum(r["learned"] == "True" for r in found)
        lines.append(f"| {delay} | {learned} of {len(found)} | {np.mean([float(r['accuracy']) for r in found]):.3f} |")
    return "\n".join(lines)


def figure(found: list[Cell], path: Path) -> None:
    """What a failed run and its restart cost together, and what came of it."""
    shown = [cell for cell in found if cell.failed]
    drawing, axes = plt.subplots(figsize=(8, 0.42 * len(shown) + 1.4), layout="constrained")
    for y, cell in enumerate(shown):
        for learned, colour in ((True, "#1f6f8b"), (False, "#b3462c")):
            of = [share for share, which in cell.shares if which is learned]
            axes.plot(of, np.full(len(of), y), "o", ms=6, alpha=0.7, mec="none", color=colour)
        axes.annotate(
            f"{cell.learned_again} of {cell.failed} learned", (1.01, y), xycoords=("axes fraction", "data"),
            va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(ALLOWED, color="#777777", lw=1, ls="--")
    axes.annotate("goal: 1.15", (ALLOWED, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{cell.setting}, λ = {cell.strength:g}" for cell in shown], fontsize=8)
    axes.set_xlim(0, 1.3)
    axes.invert_yaxis()
    axes.set_xlabel("steps of the failed attempt and its restart together, in steps of one full run")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=150)
    plt.close(drawing)


def tables(folder: Path) -> dict[str, str]:
    """By setting and strength, and by delay."""
    return {"tables.md": f"{table(cells(folder))}\n\n{by_delay(folder)}\n"}


def figures(folder: Path) -> dict[str, Drawing]:
    """What a restart costs."""
    return {"restarts.png": functools.partial(figure, cells(folder))}
