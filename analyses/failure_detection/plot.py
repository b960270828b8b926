"""The figures, from what `score` wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.common.statistics import wilson
from analyses.common.study import Drawing
from analyses.failure_detection import records
from analyses.failure_detection.metrics import FAILING, OTHERS, calibration_error, calibration_sample, latency

COLOURS = {"judge": "#0072B2", "collapsed": "#0072B2", "diverged": "#D55E00", "learned": "#666666"}
STYLES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


def detection(verdicts: pd.DataFrame) -> Figure:
    """Share of the collapsed and diverged runs called by each step, and of the runs that learned."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, layout="constrained")
    judged = verdicts["decided_step"].where(verdicts["live"].isin(FAILING))
    groups = (
        (verdicts["cause"].isin(("collapsed", "diverged")), "collapsed and diverged runs called"),
        (~verdicts["failed"], "runs that learn called (false alarms)"),
    )
    for ax, (members, title) in zip(axes, groups, strict=True):
        for name, fired in {"judge": judged, **{name: verdicts[name] for name in OTHERS}}.items():
            step = np.sort(((fired - verdicts["began"]).clip(lower=0))[members & fired.notna()])
            share = 100 * np.arange(len(step) + 1) / max(members.sum(), 1)
            style = "-" if name == "judge" else STYLES[OTHERS.index(name)]
            colour = COLOURS["judge"] if name == "judge" else "#444444"
            step, share = np.append(step, 400), np.append(share, share[-1])
            ax.step(np.append(0, step), share, where="post", ls=style, color=colour, label=name)
        ax.set(title=title, xlabel="steps after onset or switch-on", xlim=(0, 400), ylim=(0, 102))
    axes[0].set_ylabel("share of the runs, %")
    axes[1].legend(frameon=False, fontsize=8)
    return figure


def reliability(looks: pd.DataFrame) -> Figure:
    """Observed failures against the probability that was told, families held out."""
    sample = calibration_sample(looks)
    figure, (ax, below) = plt.subplots(2, 1, figsize=(4.4, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    edges = np.linspace(0, 1, 11)
    at = np.clip(np.digitize(sample["probability"], edges) - 1, 0, 9)
    by = sample.groupby(at)
    p, seen, n = by["probability"].mean(), by["failed"].mean(), by.size()
    ends = np.array([wilson(k, tries) for k, tries in zip(by["failed"].sum().astype(int), n, strict=True)])
    error = np.abs(ends.T - seen.to_numpy())
    ax.plot([0, 1], [0, 1], color="#888888", lw=1)
    ax.errorbar(p, seen, error, fmt="o", color=COLOURS["judge"], ms=5, capsize=2)
    told = f"calibration error {calibration_error(sample['failed'], sample['probability']):.3f}"
    ax.set(ylabel="share that failed", title=told, ylim=(-0.03, 1.03))
    below.bar(edges[:-1], np.bincount(at, minlength=10), width=0.1, align="edge", color="#BBBBBB", edgecolor="white")
    below.set(xlabel="probability of failure told", ylabel="looks")
    return figure


def latencies(verdicts: pd.DataFrame) -> Figure:
    """From onset or switch-on to the decision."""
    figure, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
    late = 100 * latency(verdicts)
    for name in ("collapsed", "diverged"):
        of = late[verdicts["cause"].reindex(late.index) == name]
        ax.hist(
            of, bins=list(range(0, 62, 2)), histtype="step", lw=1.8, color=COLOURS[name], label=f"{name} ({len(of)})"
        )
    ax.set_ylim(top=1.15 * ax.get_ylim()[1])
    for share, text in ((3, "goal, median"), (15, "goal, 95 %")):
        ax.axvline(share, color="#888888", lw=1, ls=":")
        ax.text(share + 0.4, 0.97, text, fontsize=8, color="#555555", transform=ax.get_xaxis_transform(), va="top")
    ax.set(xlabel="delay of the decision, % of the horizon", ylabel="runs")
    ax.legend(frameon=False, loc="center right")
    return figure


def errors(verdicts: pd.DataFrame) -> Figure:
    """Missed failures and false alarms of each family."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), sharey=True, layout="constrained")
    called = verdicts["live"].isin(FAILING)
    families = sorted(verdicts["family"].unique(), reverse=True)
    bad, good = verdicts["cause"].isin(("collapsed", "diverged")), ~verdicts["failed"]
    panels = ((bad, bad & ~called, "collapsed or diverged, not called"), (good, good & called, "learned, but called"))
    for ax, (members, wrong, title) in zip(axes, panels, strict=True):
        total, k = ([int((which & (verdicts["family"] == f)).sum()) for f in families] for which in (members, wrong))
        _bars(ax, total, k, families)
        ax.set(title=title, xlabel="runs")
    return figure


def _bars(ax: Axes, total: list[int], wrong: list[int], names: list[str]) -> None:
    ax.barh(names, total, color="#DDDDDD")
    ax.barh(names, wrong, color=COLOURS["diverged"])
    for i, (n, k) in enumerate(zip(total, wrong, strict=True)):
        ax.text(n + 0.5, i, f"{k} of {n}", va="center", fontsize=8)
    ax.set_xlim(0, max(total, default=1) * 1.25)


def figures(folder: Path) -> dict[str, Drawing]:
    """All four."""
    verdicts, looks = records.verdicts(folder), records.told(folder)
    drawn = {
        "detection": functools.partial(detection, verdicts), "reliability": functools.partial(reliability, looks),
        "latency": functools.partial(latencies, verdicts), "errors": functools.partial(errors, verdicts),
    }  # fmt: skip
    return {f"{name}.png": functools.partial(_save, draw) for name, draw in drawn.items()}


def _save(draw: Callable[[], Figure], path: Path) -> None:
    mpl.use("Agg")
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        draw().savefig(path, dpi=130)
