"""Draw summaries with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, inf, log10
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.path import Path as DrawnPath
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterSciNotation

from gradscope.card import SHORT, plain
from gradscope.report.curves import Curve, Curves, Grid, Panel
from gradscope.report.style import COLOURS as COLOURS  # other figures of this room take it from here
from gradscope.report.style import DASHES, MARKERS, SCALE, STYLES, Style
from gradscope.types import InputError

FORMATS = (".png", ".svg", ".pdf")
#: Names along an axis, and the letters of one, that there is room for.
MOST_NAMES, NAME = 30, 36
#: From the weakest to the strongest, dark on light and light on dark; the far end of the scale would not be seen.
SHADES = {False: (0.88, 0.0), True: (0.2, 1.0)}


def figure_of(panels: Sequence[Panel], style: Style = STYLES["screen"]) -> Figure:
    """Draw up to three panels side by side, more in two rows; no legend covers a curve."""
    rows = 1 if len(panels) <= 3 else 2
    columns = -(-len(panels) // rows)
    with rc_context(style.settings()):
        figure = Figure(figsize=style.size(rows, columns), layout="constrained")
        FigureCanvasAgg(figure)
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(places, panels, strict=False):
            if isinstance(panel, Grid):
                _draw_grid(axes, panel, style)
            else:
                draw_curves(axes, panel, style)
        for axes in places[len(panels) :]:
            axes.remove()
        tidy(figure)
    return figure


def draw_curves(axes: Axes, summary: Curves, style: Style = STYLES["screen"]) -> None:
    """Draw one summary into one set of axes."""
    axes.set_title(summary.title, loc="left")
    axes.set_xlabel(summary.x_label)
    axes.set_ylabel(summary.y_label)
    if summary.log_x:
        axes.set_xscale("log")
        _label_between_decades(axes)
    if summary.log_y:
        axes.set_yscale("log")
    if summary.y_range is not None:
        axes.set_ylim(*summary.y_range)
    if summary.x_range is not None:
        axes.set_xlim(*summary.x_range)
    if summary.band is not None:
        band = summary.band
        axes.axvspan(band.low, band.high, color="#888888", alpha=0.35, linewidth=0, label=band.label)
    if summary.names:
        _name(axes.xaxis, summary.names, MOST_NAMES // 2)
    for number, curve in enumerate(summary.curves):
        _draw(axes, summary, curve, number, style)
    for number, level in enumerate(summary.levels):
        colour = style.colours[number % len(style.colours)] if len(summary.levels) > 1 else style.ink
        axes.axhline(level.y, color=colour, linestyle=":", linewidth=style.line, label=level.label)
    _frame(axes, summary, style)


def _label_between_decades(axes: Axes) -> None:
    """Where fewer than two powers of ten are in view, label ticks between them, few enough to stand apart."""
    text = LogFormatterSciNotation(minor_thresholds=(inf, inf))
    text.set_axis(axes.xaxis)

    def label(x: float, _: float) -> str:
        low, high = sorted(log10(end) for end in axes.get_xlim())
        if floor(high) - ceil(low) >= 1:
            return ""
        shown = (3,) if high - low > 1 else (2, 3, 5) if high - low > 0.5 else range(2, 10)
        return str(text(x)) if round(x / 10 ** floor(log10(x))) in shown else ""

    axes.xaxis.set_minor_formatter(label)
    axes.tick_params(axis="x", which="minor", labelsize="x-small")  # "3 × 10⁻³" is long where a decade is narrow


def _draw_grid(axes: Axes, grid: Grid, style: Style) -> None:
    axes.set_title(grid.title, loc="left")
    axes.set_xlabel(grid.x_label)
    low, high = grid.limits or (None, None)
    shades = colormaps[SCALE].with_extremes(bad="#888888")
    cells = axes.pcolormesh(
        grid.edges, np.arange(len(grid.rows) + 1) - 0.5, grid.values, cmap=shades, vmin=low, vmax=high, rasterized=True
    )
    axes.invert_yaxis()
    _name(axes.yaxis, grid.rows, MOST_NAMES)
    _figure(axes).colorbar(cells, ax=axes, label=grid.label, fraction=0.06, pad=0.02)


def _name(axis: Axis, names: Sequence[str], most: int) -> None:
    """Put names at 0, 1, 2 …, as many of them as there is room for."""
    every = max(1, -(-len(names) // most))
    shown = range(0, len(names), every)
    short = [plain(names[i], NAME) for i in shown]
    along_x = isinstance(axis, XAxis)
    axis.set_ticks(list(shown), short, rotation=60 if along_x else 0, fontsize="x-small")
    if along_x:
        for label in axis.get_ticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")


def _draw(axes: Axes, summary: Curves, curve: Curve, number: int, style: Style) -> None:
    place = number if curve.colour is None else curve.colour
    colour = style.colours[place % len(style.colours)] if curve.shade is None else _shade(curve.shade, style)
    marker = MARKERS[place % len(MARKERS)]
    dash = DASHES[(number if curve.dash is None else curve.dash) % len(DASHES)] if curve.shade is None else "-"
    label = curve.label if summary.scale is None else "_"
    if curve.dots_x is not None and curve.dots_y is not None:
        axes.plot(curve.dots_x, curve.dots_y, marker, color=colour, markersize=style.marker * 0.6, alpha=0.3, mew=0)
    width = style.line if curve.shade is None else style.line * 0.7
    drawstyle = "steps-post" if summary.stairs else "default"
    axes.plot(
        curve.x, curve.y, label=label, color=colour, linestyle=dash, linewidth=width, drawstyle=drawstyle,
        marker=marker if summary.points else None, markersize=style.marker,
    )  # fmt: skip
    if curve.low is not None and curve.high is not None:
        ends = np.nan_to_num(np.stack([curve.y - curve.low, curve.high - curve.y]))
        axes.errorbar(curve.x, curve.y, ends, fmt="none", ecolor=colour, elinewidth=width * 0.8, capsize=2)
    finite = np.flatnonzero(np.isfinite(curve.y))
    if curve.failed and len(finite):
        axes.plot(curve.x[finite[-1]], curve.y[finite[-1]], "x", color=colour, markersize=style.marker * 1.4, mew=width)


def _shade(place: float, style: Style) -> tuple[float, float, float, float]:
    faint, strong = SHADES[style.dark]
    red, green, blue, alpha = colormaps[SCALE](faint + (strong - faint) * place)
    return (red, green, blue, alpha)


def _frame(axes: Axes, summary: Curves, style: Style) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if summary.square:
        axes.set_aspect("equal")
    _explain_marks(axes, summary, style)
    if summary.scale is not None:
        _colour_bar(axes, summary.scale, style)
    handles, labels = axes.get_legend_handles_labels()
    shown = [label for label in labels if not label.startswith("_")]
    told_apart = len(shown) > 1 or summary.levels or summary.band or (shown and summary.keyed)
    if not told_apart or summary.keyed == "never":
        return
    title = summary.legend or None
    if summary.keyed == "outside":
        _figure(axes).legend(handles, labels, loc="outside right upper", frameon=False, title=title, alignment="left")
    else:
        axes.legend(frameon=False, title=title, alignment="left")


def _explain_marks(axes: Axes, summary: Curves, style: Style) -> None:
    """Add an entry to the legend for every mark that is no line."""
    if any(curve.failed for curve in summary.curves):
        axes.plot([], [], "x", color=style.ink, markersize=style.marker * 1.4, label="does not learn")
    if any(curve.dots_x is not None and len(curve.dots_x) for curve in summary.curves):
        axes.plot([], [], "o", color=style.ink, markersize=style.marker * 0.6, alpha=0.3, mew=0, label="a single run")
    if any(curve.low is not None and np.isfinite(curve.low).any() for curve in summary.curves):
        nothing: list[float] = []
        axes.errorbar(
            nothing, nothing, nothing, fmt="none", ecolor=style.ink, capsize=2, label="95 % interval of the mean"
        )


def tidy(figure: Figure) -> None:
    """Move legends that cover a curve beside the axes; break titles and labels to the length of their axes."""
    figure.draw_without_rendering()
    while covering := [axes for axes in figure.axes if _covers(axes.get_legend(), axes)]:
        for axes in covering:
            legend = axes.get_legend()
            assert legend is not None
            legend.set_loc("upper left")
            legend.set_bbox_to_anchor((1.01, 1.0), transform=axes.transAxes)
        figure.draw_without_rendering()  # which leaves less room to the others
    for axes in figure.axes:
        box = axes.get_window_extent()
        _break(axes._left_title, box.width)  # type: ignore[attr-defined]
        _break(axes.yaxis.label, box.height)
        _break(axes.xaxis.label, box.width)


def _covers(legend: Legend | None, axes: Axes) -> bool:
    """Return whether a legend inside the axes lies over a line or a mark."""
    if legend is None or legend.get_window_extent().x0 >= axes.get_window_extent().x1:
        return False
    box = legend.get_window_extent()
    for line in axes.lines:
        points = np.asarray(line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float)))
        points = points[np.isfinite(points).all(1)]
        if len(points) and DrawnPath(points).intersects_bbox(box, filled=False):
            return True
        if any(box.contains(x, y) for x, y in points):
            return True
    return any(
        DrawnPath(np.asarray(collection.get_transform().transform(part.vertices))).intersects_bbox(box, filled=False)
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for part in collection.get_paths()
        if np.size(part.vertices)
    )


def _break(text: Text, room: float) -> None:
    """Break a text at its spaces until it is no longer than this, in pixels."""
    extent = text.get_window_extent()
    length = max(extent.width, extent.height)
    if text.get_text() and length > room:
        text.set_text("\n".join(wrap(text.get_text(), max(8, int(len(text.get_text()) * room / length) - 1))))


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _colour_bar(axes: Axes, scale: tuple[str, float, float], style: Style) -> None:
    label, low, high = scale
    colours = np.array([_shade(place, style) for place in np.linspace(0, 1, 256)])
    bar = ScalarMappable(LogNorm(low, high), ListedColormap(colours))
    _figure(axes).colorbar(bar, ax=axes, label=label, fraction=0.06, pad=0.02)


def save(figure: Figure, path: Path, style: Style = STYLES["screen"]) -> None:
    """Write a figure; the suffix says the format. The same figure gives the same bytes."""
    check_target(path)
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}[path.suffix.lower()]
    try:
        with rc_context(style.settings()):
            _make_inert(figure)
            figure.savefig(path, metadata=dates)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _make_inert(figure: Figure) -> None:
    """Keep names of a record from being read as formulas, and cut them to what a figure can bear."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [*axes.texts, axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title, axes._right_title]  # type: ignore[attr-defined]
        texts += legend.get_texts() if (legend := axes.get_legend()) is not None else []
    for text in texts:
        text.set_parse_math(False)
        text.set_text("\n".join(plain(line, SHORT) for line in text.get_text().split("\n")))


def check_target(path: Path) -> None:
    """Raise `InputError` where no figure can be written, before it is computed."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path}: expected a name that ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
