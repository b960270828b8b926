"""Tables and curves of what was run: strengths chosen, what they lack of the grid's best, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from analyses.common.markdown import markdown
from analyses.common.results import Results, Row
from analyses.common.statistics import wilson
from analyses.common.study import Drawing
from analyses.useful_strength import replayed, simulated
from analyses.useful_strength.regret import Curve
from analyses.useful_strength.runs import GRID, OPTUNA, TUNINGS
from analyses.useful_strength.tasks import TASKS, Task
from gradscope.tuning.ask_tell import DELAYED, StrengthTuning
from gradscope.types import InputError

#: The goal: a regret below so many deviations of a seed. The price is told as a share of a grid with so many seeds.
HALF, GRID_SEEDS = 0.5, 5
#: Below this share of the way from a constant answer to the best accuracy, nothing is learned.
LITTLE = 0.05


def worth(row: Row) -> float:
    """The metric of a run; one that was ended early has learned nothing, and gives what a constant answer does."""
    return float(row["constant"] if row["stopped"] else row["accuracy"])


def _regrets(those: Sequence[float]) -> list[str]:
    low, high = wilson(good := sum(regret < HALF for regret in those), len(those))
    said = f"{np.median(those):.2f} ({max(those):.2f})"
    return [str(len(those)), said, f"{good} of {len(those)} ({low:.2f}-{high:.2f})"]


def _spread(those: Sequence[float]) -> list[str]:
    repeats, _, good = _regrets(those)
    return [repeats, f"{np.median(those):.2f}", f"{np.quantile(those, 0.9):.2f}", f"{max(those):.2f}", good]


class Found:
    """The results in a folder."""

    def __init__(self, results: Path) -> None:
        files = (GRID, TUNINGS, OPTUNA)
        self.grid, self.tunings, self.optuna = (Results(results / name).rows() for name in files)
        self.replayed = Results(results / replayed.FILE).rows()
        self.curves = [(task, c) for task in TASKS.values() if (c := self.curve(task, None)) is not None]

    def curve(self, task: Task, schedule: str | None) -> Curve | None:
        """The curve of a task, from the seeds that all strengths have had; None below three."""
        found: dict[float, list[float]] = {}
        for row in self._of(task):
            if row["schedule"] == schedule and row["strength"]:
                found.setdefault(row["strength"], []).append(worth(row))
        seeds = min(map(len, found.values()), default=0)
        return Curve({x: values[:seeds] for x, values in found.items()}) if seeds > 2 else None

    def _of(self, task: Task) -> list[Row]:
        return [row for row in self.grid if row["task"] == task.name]

    def _tuned(self, task: Task, delayed: bool = False) -> list[Row]:
        """Tunings that have found a strength."""
        mine = [r for r in self.tunings if (r["task"], r["delayed"]) == (task.name, delayed)]
        return [row for row in mine if row["best"]["strength"]]

    def choices(self, task: Task) -> dict[str, list[tuple[float, int]]]:
        """Strength and steps of every repeat, by the way that has chosen it."""
        alone = [r for r in self.optuna if r["task"] == task.name]
        found = {
            "tune": [(r["best"]["strength"], r["steps_run"]) for r in self._tuned(task)],
            "Optuna": [(r["strength"], r["steps"]) for r in alone if not r["patient"]],
            "Optuna, patient": [(r["strength"], r["steps"]) for r in alone if r["patient"]],
        }
        return {way: those for way, those in found.items() if those}

    def compared(self) -> list[list[object]]:
        """A line of the table for every task and way; then for every way what all tasks come to."""
        lines: list[list[object]] = []
        every: dict[str, list[float]] = {}
        for task, curve in self.curves:
            ways = self.choices(task)
            one = task.steps * len(curve.strengths)
            ways["a grid of one seed"] = [(curve.of_one_seed(k), one) for k in range(curve.seeds)]
            whole = len(StrengthTuning(task.low, task.high).strengths) * GRID_SEEDS * task.steps
            for way, those in ways.items():
                regrets = [curve.regret(x) for x, _ in those]
                every.setdefault(way, []).extend(regrets)
                steps = float(np.mean([taken for _, taken in those]))
                lines.append([
                    task.name, way, *_regrets(regrets),
                    f"{np.median(regrets) * curve.deviation / max(curve.within, 1e-12):.2f}",
                    f"{np.median([curve.against_means(x) for x, _ in those]):.2f}",
                    f"{sum(curve.in_the_set(x) for x, _ in those)} of {len(those)}",
                    f"{steps:.0f}", f"{steps / whole:.1%}",
                ])  # fmt: skip
        return lines + [["all", way, *_regrets(regrets), "", "", "", "", ""] for way, regrets in every.items()]

    def looked_up(self) -> list[list[object]]:
        """A line for every task whose tunings were replayed; then one for all tasks."""
        lines: list[list[object]] = []
        every: list[float] = []
        for task, curve in self.curves:
            if mine := [r for r in self.replayed if r["task"] == task.name]:
                regrets = [curve.regret(float(r["strength"])) for r in mine]
                every += regrets
                steps = float(np.mean([int(r["steps"]) for r in mine]))
                whole = len(curve.strengths) * GRID_SEEDS * task.steps
                lines.append([task.name, *_spread(regrets), f"{steps / whole:.1%}"])
        return lines + ([["all", *_spread(every), ""]] if every else [])

    def of_the_grid(self, task: Task, curve: Curve) -> list[object]:
        """A line about the curve itself."""
        mine = [r for r in self._of(task) if r["schedule"] is None]
        without = [worth(r) for r in mine if not r["strength"]]
        learned = (1 - LITTLE) * mine[0]["constant"] + LITTLE * curve.smoothed(curve.best)
        failing = [x for x, mean in zip(curve.strengths, curve.means, strict=True) if mean < learned]
        late = self.curve(task, DELAYED)
        return [
            task.name, f"{len(curve.strengths)} x {curve.seeds}", f"{np.mean(without):.3f}",
            f"{curve.smoothed(curve.best):.3f}", f"{curve.best:.2g}", f"{curve.deviation:.3f}", f"{curve.within:.3f}",
            f"{min(failing):.2g}" if failing else "none", f"{late.smoothed(late.best):.3f} at {late.best:.2g}"
            if late else "", f"{sum(r['core_seconds'] for r in self._of(task)) / 60:.0f}",
        ]  # fmt: skip

    def delays(self, task: Task) -> list[list[object]]:
        """A line for every tuning that has tried delays."""
        return [
            [task.name, r["seed"], f"{r['best']['strength']:.2g}", r["best"]["schedule"], f"{r['best']['value']:.3f}",
             f"{r['without']['value']:.3f}", f"{r['delay']['gain']:+.3f} (p {r['delay']['p_value']:.2f})"
             if r["delay"] else "not compared", r["steps_run"]]
            for r in self._tuned(task, delayed=True)
        ]  # fmt: skip

    def gains(self, task: Task) -> list[object]:
        """What the tunings of a task say of no penalty."""
        tuned = self._tuned(task)
        told = sum(r["p_value"] is not None and r["p_value"] < 0.05 for r in tuned)
        mean = f"{np.mean([r['gain'] for r in tuned]):+.3f}" if tuned else ""
        spent = sum(r["core_seconds"] for r in tuned) / 60
        return [task.name, len(tuned), mean, f"{told} of {len(tuned)}", f"{spent:.0f}"]

    def draw(self, path: Path) -> None:
        """Curves with the deviation of their seeds, and what was chosen."""
        mpl.use("agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(
            1, len(self.curves), figsize=(4.2 * len(self.curves), 3.4), squeeze=False, layout="constrained"
        )
        for (task, curve), axis in zip(self.curves, axes[0], strict=True):
            for label, shown in (("from the start", curve), (DELAYED, self.curve(task, DELAYED))):
                if shown is not None:
                    spread = [np.std(shown.values[x], ddof=1) for x in shown.strengths]
                    axis.errorbar(shown.strengths, shown.means, spread, fmt=".-", lw=1, elinewidth=0.6, label=label)
            for height, (way, those) in zip((0.03, 0.09, 0.15), self.choices(task).items(), strict=False):
                marks = [x for x, _ in those]
                axis.plot(marks, [height] * len(marks), "|", ms=12, transform=axis.get_xaxis_transform(), label=way)
            axis.set(xscale="log", title=task.name, xlabel="strength λ (weight_decay is 2λ)", ylabel="accuracy")
            axis.legend(fontsize=6)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def machines(rows: Sequence[Row]) -> str:
    """What they were made with."""
    dates = sorted({row["date"] for row in rows})
    return f"{dates[0]} to {dates[-1]}, {', '.join(sorted({row['machine'] for row in rows}))}"


def tables(results: Path) -> dict[str, str]:
    """All that is told of these results. Raises `InputError` where there are none."""
    there = Found(results)
    planned = ", ".join(f"{task.name} {len(StrengthTuning(task.low, task.high).strengths)}" for task, _ in there.curves)
    known = Results(results / simulated.FILE).rows()
    if not known and not there.curves:
        raise InputError(f"{results} holds no results; the study's run command makes them")
    text = ["On curves that are known:", "", simulated.table(known)] if known else []
    if there.curves:
        text += [
            "", f"Trainings ({machines(there.grid)}). The grids, metrics by the smoothed curve:", "",
            markdown(["task", "strengths x seeds", "without", "best", "at λ", "a seed's deviation", "in pairs",
                      "nothing learned from λ", "delayed:auto", "core-minutes"],
                     [there.of_the_grid(task, curve) for task, curve in there.curves]), "",
            "What was chosen. Regret in deviations of a seed; the steps are told as a share of those of a grid of all "
            f"strengths that tune may try ({planned}), five seeds each, to their end:", "",
            markdown(["task", "way", "repeats", "regret, median (largest)", "below one half (95 %)",
                      "in pairs' deviations", "against raw means", "in the confidence set", "steps", "of the grid's"],
                     there.compared()), "",
            "What the tunings say of no penalty, in five pairs each:", "",
            markdown(["task", "tunings", "gain, mean", "told from chance", "core-minutes"],
                     [there.gains(task) for task, _ in there.curves]),
        ]  # fmt: skip
    if again := there.looked_up():
        columns = ["task", "repeats", "regret, median", "90 %", "largest", "below one half (95 %)",
                   "steps of the grid's"]  # fmt: skip
        text += ["", "Tunings whose runs are looked up in the grid:", "", markdown(columns, again)]
    if later := [line for task, _ in there.curves for line in there.delays(task)]:
        columns = ["task", "seed", "best λ", "schedule", "accuracy", "without", "delay against start", "steps"]
        text += ["", "Tunings that try delays, too:", "", markdown(columns, later)]
    return {"tables.md": "\n".join([*text, ""])}


def figures(results: Path) -> dict[str, Drawing]:
    """The curves, where there are any."""
    there = Found(results)
    return {"curves.png": there.draw} if there.curves else {}
