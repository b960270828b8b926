"""Draws summaries with matplotlib. The only file of this room that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradscope import checks
from gradscope.report.summary import (
    FIGURES,
    Curves,
    accuracy_by_strength,
    load_run,
    over_time,
)
from gradscope.types import InputError

#: Okabe and Ito: told apart by people with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FORMATS = (".png", ".svg", ".pdf")


def draw_curves(axes: Axes, summary: Curves) -> None:
    """One summary into one set of axes."""
    for number, curve in enumerate(summary.curves):
        axes.plot(
            curve.x,
            curve.y,
            label=curve.label,
            color=COLOURS[number % len(COLOURS)],
            linestyle="--" if curve.failed else "-",
            marker="o" if summary.points else None,
            markersize=4,
            linewidth=1.4,
        )
    axes.set_title(summary.title, fontsize=10, loc="left")
    axes.set_xlabel(summary.x_label)
    axes.set_ylabel(summary.y_label)
    if summary.log_x:
        axes.set_xscale("log")
    if summary.log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(summary.curves) > 1:
        axes.legend(fontsize=8, frameon=False)


def figure_of(panels: Sequence[Curves], width: float = 4.6, height: float = 3.2) -> Figure:
    """A figure with the panels side by side."""
    figure = Figure(figsize=(width * len(panels), height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_curves(axes, panel)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the suffix says the format."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path}: expected a name that ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def draw(runs: Sequence[Path], name: str, path: Path) -> Curves:
    """Write the figure of this name from these records to ``path``; returns what it shows."""
    checks.one_of(name, FIGURES, "figure")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path}: expected a name that ends in {', '.join(FORMATS)}")
    loaded = [load_run(run) for run in runs]
    summary = accuracy_by_strength({"runs": loaded}) if name == "accuracy" else over_time(loaded, name)
    save(figure_of([summary]), path)
    return summary
