"""Figures of the study, and the levels that its full runs give, from its tables."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analyses.common.results import Results, Row
from analyses.common.statistics import wilson
from analyses.common.study import Drawing
from analyses.tolerance_search import delayed, slopes
from analyses.tolerance_search.training import HIGH, LOW
from gradscope.tolerance.posterior import Posterior
from gradscope.trials.trial import Outcome

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
TICKS = (0.02, 0.03, 0.05, 0.07, 0.1)


def figure(panels: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side."""
    made = Figure(figsize=(4.6 * panels, 3.4), layout="constrained")
    FigureCanvasAgg(made)
    axes = list(made.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        one.grid(alpha=0.25, linewidth=0.6)
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def simulated(folder: Path, path: Path) -> None:
    """Coverage and width over the slope, with and without the judge's errors."""
    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in Results(folder / "simulated.csv").rows():
        groups[row["judge"], float(row["slope"])].append(row)
    made, (covered, width) = figure(2)
    slopes = sorted({slope for _, slope in groups})
    for shift, judge, colour in ((0.97, "perfect", BLUE), (1.03, "real", ORANGE)):
        at = [s * shift for s in slopes]
        shares = [float(np.mean([float(r["covered"]) for r in groups[judge, s]])) for s in slopes]
        counts = [len(groups[judge, s]) for s in slopes]
        ends = np.array([wilson(round(p * n), n) for p, n in zip(shares, counts, strict=True)])
        error = np.abs(ends.T - shares)
        covered.errorbar(at, shares, error, capsize=2, color=colour, marker="o", markersize=4, label=f"{judge} judge")
        widths = [float(np.median([float(r["decades"]) for r in groups[judge, s]])) for s in slopes]
        width.plot(at, widths, color=colour, marker="o", markersize=4, label=f"{judge} judge")
        trials = [np.median([float(r["trials"]) for r in groups[judge, s]]) for s in slopes]
        for x, y, n in zip(at, widths, trials, strict=True):
            below = -15 if judge == "perfect" else 8
            width.annotate(f"{n:.0f}", (x, y), xytext=(-5, below), textcoords="offset points", fontsize=8, color=colour)
    covered.axhline(0.93, color=GREY, linewidth=0.9, linestyle="--")
    covered.annotate("goal: .93", (slopes[0], 0.9315), fontsize=8, va="bottom")
    covered.set_ylim(0.85, 1.005)
    covered.set_title("share of 95 % intervals that hold the truth", fontsize=10, loc="left")
    width.set_title("median width in decades, median trials", fontsize=10, loc="left")
    width.set_ylim(0, 0.24)
    for axes in (covered, width):
        axes.set_xscale("log")
        axes.set_xticks(slopes, [f"{s:g}" for s in slopes])
        axes.minorticks_off()
        axes.set_xlabel("true slope σ, decades")
        axes.legend(fontsize=8, frameon=False, loc="lower left")
    made.savefig(path, dpi=150)


def trained(folder: Path, path: Path) -> None:
    """Searches on real training: λ* by depth; and the brute-force grid with the searches beside it."""
    fine = [r for r in Results(folder / "searches.csv").rows() if float(r["precision"]) == 0.1]
    made, (depth, brute) = figure(2)
    for row in fine:
        x = int(row["layers"]) + 0.15 * int(row["seed"])
        low, middle, high = (float(row[k]) for k in ("low", "tolerance", "high"))
        depth.errorbar(
            [x], [middle], [[middle - low], [high - middle]], color=BLUE, marker="o", markersize=4, capsize=3
        )
    depth.set_yscale("log")
    depth.set_yticks(TICKS, [f"{t:g}" for t in TICKS])
    depth.minorticks_off()
    depth.set_xticks(sorted({int(r["layers"]) for r in fine}))
    depth.set_xlabel("weight layers")
    depth.set_title("λ* with the 95 % interval of each search", fontsize=10, loc="left")
    runs: dict[float, list[int]] = defaultdict(list)
    for row in Results(folder / "grid.csv").rows():
        runs[float(row["strength"])].append(int(row["failed"]))
    strengths = sorted(runs)
    brute.plot(strengths, [np.mean(runs[s]) for s in strengths], "o-", color=GREY, markersize=4, linewidth=1.0)
    least = min(map(len, runs.values()), default=0)
    brute.set_title(f"share that fails, {least} or more full runs each, 8 layers", fontsize=10, loc="left")
    for row in [r for r in fine if r["layers"] == "8"]:
        brute.axvspan(float(row["low"]), float(row["high"]), color=BLUE, alpha=0.18, linewidth=0)
        brute.axvline(float(row["tolerance"]), color=BLUE, linewidth=1.0)
    brute.set_xscale("log")
    brute.set_xticks(TICKS, [f"{t:g}" for t in TICKS])
    brute.minorticks_off()
    brute.set_xlabel("strength λ; blue: the searches' λ* and interval")
    made.savefig(path, dpi=150)


def levels(folder: Path) -> Iterator[str]:
    """The level and its interval from every full run, and how often the judge's early word was right."""
    for name in ("grid.csv", "grid_300.csv"):
        runs, posterior = Results(folder / name).rows(), Posterior(LOW, HIGH)
        for row in runs:
            posterior.update(Outcome(float(row["strength"]), float(row["failed"])))
        low, level, high = (10 ** posterior.quantile(q) for q in (0.025, 0.5, 0.975))
        said = [r["early"] == ("failed" if r["failed"] == "1" else "learned") for r in runs if "early" in r]
        word = f"; the judge's early word was right {sum(said)} times" if said else ""
        yield (f"{name}: {len(runs)} runs, λ* {level:.4f} ({low:.4f} … {high:.4f}){word}")


def tables(folder: Path) -> dict[str, str]:
    """Levels by brute force, and searches of the delayed one; slopes, and priors of them."""
    return {
        "levels.txt": "\n".join([*levels(folder), "", *delayed.told(folder)]) + "\n",
        "slopes.md": slopes.told(folder),
    }


def figures(folder: Path) -> dict[str, Drawing]:
    """Of simulated searches, and of those on real training."""
    return {
        "simulated.png": functools.partial(simulated, folder),
        "training.png": functools.partial(trained, folder),
    }
