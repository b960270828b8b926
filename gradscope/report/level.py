"""Figure of a tolerance level: the trials, the fitted curve, the interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gradscope.quantities import Strength, is_l2
from gradscope.report.figures import COLOURS, save
from gradscope.tolerance.posterior import Array, Posterior, ToleranceEstimate, normal_cdf
from gradscope.trials.trial import Outcome

#: Draws from the posterior behind the band.
DRAWS = 400
GREY = "#555555"
#: The kinds of trials: as the legend calls them, which they are, their mark, and whether it is filled.
TRIALS: tuple[tuple[str, Callable[[Outcome], bool], str, bool], ...] = (
    ("trials, stopped early", lambda o: o.early and o.failed != 0.5, "o", True),
    ("trials, run to the end", lambda o: not o.early and o.failed != 0.5, "o", False),
    ("trials that told nothing, at ½", lambda o: o.failed == 0.5, "D", False),
)


@dataclass(frozen=True)
class LevelSummary:
    """What the figure shows.

    Attributes:
        label: name of the level.
        outcomes: the trials.
        estimate: the level.
        strength: places of the curve, [K].
        failing: mean share of runs that fail, [K].
        low: lower end of its 95 % band, [K].
        high: upper end of it, [K].
    """

    label: str
    outcomes: tuple[Outcome, ...]
    estimate: ToleranceEstimate
    strength: Array
    failing: Array
    low: Array
    high: Array


def level_summary(
    label: str, posterior: Posterior, outcomes: Sequence[Outcome], estimate: ToleranceEstimate
) -> LevelSummary:
    """Compute the curve that these trials leave, over all levels that ``posterior`` knows."""
    x = np.linspace(posterior.level[0], posterior.level[-1], 481)
    weights = posterior.weights.ravel()
    drawn = np.random.default_rng(0).choice(weights.size, DRAWS, p=weights)
    level, slope = posterior.level[drawn // len(posterior.slope)], posterior.slope[drawn % len(posterior.slope)]
    curves = normal_cdf((x - level[:, None]) / slope[:, None])
    bounds = np.quantile(curves, [0.025, 0.975], axis=0)
    return LevelSummary(label, tuple(outcomes), estimate, 10**x, curves.mean(0), bounds[0], bounds[1])


def draw_level(axes: Axes, summary: LevelSummary, colour: str, penalty: str) -> None:
    """Draw one level into one set of axes."""
    e = summary.estimate
    if e.low is not None and e.high is not None:
        axes.axvspan(e.low, e.high, color=colour, alpha=0.15, linewidth=0)
        axes.fill_between(summary.strength, summary.low, summary.high, color=colour, alpha=0.18, linewidth=0)
        level = Strength(e.tolerance or 0.0, penalty)
        text = f"{summary.label} {level}, λ within {e.low:.3g} … {e.high:.3g}"
        axes.plot(summary.strength, summary.failing, color=colour, linewidth=1.6, label=text)
    else:
        axes.plot([], [], color=colour, label=f"{summary.label} not determined")
    for _, belongs, marker, filled in TRIALS:
        if chosen := [o for o in summary.outcomes if belongs(o)]:
            # A little apart, so that trials at one strength can be counted.
            apart = [0.012 * (k % 5) * (1 if o.failed < 0.5 else -1) for k, o in enumerate(chosen)]
            at = [round(o.failed) if o.failed != 0.5 else 0.5 for o in chosen]
            axes.scatter(
                [o.strength for o in chosen], np.add(at, apart), s=22, facecolors=colour if filled else "none",
                marker=marker, edgecolors=colour, alpha=0.85, linewidths=1.0, zorder=3,
            )  # fmt: skip


def draw_levels(summaries: Sequence[LevelSummary], penalty: str, path: Path) -> Path:
    """Write the figure; for L2 with a second axis in ``weight_decay``."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for summary, colour in zip(summaries, COLOURS, strict=False):
        draw_level(axes, summary, colour, penalty)
    for name, belongs, marker, filled in TRIALS:
        if any(belongs(o) for summary in summaries for o in summary.outcomes):
            face = GREY if filled else "none"
            axes.scatter([], [], s=22, facecolors=face, edgecolors=GREY, marker=marker, label=name)
    if any(summary.estimate.low is not None for summary in summaries):
        axes.fill_between([], [], [], color=GREY, alpha=0.25, linewidth=0, label="95 % of level and of curve")
    axes.set_xscale("log")
    axes.set_xlim(*_shown_range(summaries))
    _plain_ticks(axes.xaxis)
    axes.set_xlabel(f"strength λ ({penalty})")
    axes.set_ylabel("share of runs that fail")
    axes.set_ylim(-0.06, 1.06)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines["right"].set_visible(False)
    if is_l2(penalty):
        doubled: Any = (lambda x: 2 * x, lambda x: x / 2)
        decay = axes.secondary_xaxis("top", functions=doubled)
        _plain_ticks(decay.xaxis)
        decay.set_xlabel("weight_decay = 2λ")
    else:
        axes.spines["top"].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    save(figure, path)
    return path


def _plain_ticks(axis: XAxis) -> None:
    """Set ticks at 1, 2 and 5 of each decade, as plain numbers: the range shown is often less than a decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def _shown_range(summaries: Sequence[LevelSummary]) -> tuple[float, float]:
    """Widen the range from the weakest to the strongest trial and interval; a searched range may be wider still."""
    at = [o.strength for summary in summaries for o in summary.outcomes]
    at += [x for summary in summaries for x in (summary.estimate.low, summary.estimate.high) if x is not None]
    return min(at) / 1.5, max(at) * 1.5
