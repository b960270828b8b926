"""Contents of a figure as plain arrays: computed before anything is drawn, and what tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        label: its name in the legend.
        x: places, [K].
        y: values, [K].
        failed: the run did not learn; the line ends in a cross.
        low: lower end of an interval around ``y``, [K], NaN where there is none.
        high: upper end.
        dots_x: places of the single values behind a mean, [N].
        dots_y: those values.
        shade: a place between 0 and 1 on a scale of colours, in place of a colour of its own.
        colour: its place in the palette, where lines belong together; else its place among the curves.
        dash: its place among the dashes, likewise.
    """

    label: str
    x: Array
    y: Array
    failed: bool = False
    low: Array | None = None
    high: Array | None = None
    dots_x: Array | None = None
    dots_y: Array | None = None
    shade: float | None = None
    colour: int | None = None
    dash: int | None = None


@dataclass(frozen=True)
class Level:
    """Horizontal line to compare with."""

    label: str
    y: float


@dataclass(frozen=True)
class Band:
    """Range of x that is marked, such as the interval of a tolerance level."""

    label: str
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """Panel of lines.

    Attributes:
        title: above the panel.
        x_label: name of the x axis.
        y_label: name of the y axis.
        curves: the lines.
        log_x: the x axis is logarithmic.
        log_y: the y axis is logarithmic.
        points: with markers and error bars.
        stairs: ``y`` holds until the next ``x``.
        square: a unit of x is as long as one of y.
        keyed: a legend where there is something to tell apart (empty), ``always``, ``never``, or ``outside`` the axes.
        y_range: ends of the y axis.
        x_range: ends of the x axis.
        levels: horizontal lines.
        band: a marked range of x.
        legend: title of the legend.
        scale: what the shades stand for, from the lightest to the darkest, for a colour bar.
        names: what stands at x = 0, 1, 2 …, in place of numbers.
        notes: what a reader has to know and the picture does not show.
    """

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    points: bool = False
    stairs: bool = False
    square: bool = False
    keyed: Literal["", "always", "never", "outside"] = ""
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None
    levels: tuple[Level, ...] = ()
    band: Band | None = None
    legend: str = ""
    scale: tuple[str, float, float] | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "curves": [_plain(curve) for curve in self.curves],
            "levels": {level.label: level.y for level in self.levels},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Grid:
    """Panel of coloured cells.

    Attributes:
        title: above the panel.
        x_label: name of the x axis.
        label: what the colours stand for.
        edges: between the cells along x, [W + 1].
        rows: names of the K rows.
        values: of the cells, [K, W].
        limits: of the scale of colours, None: those of the values.
        notes: what a reader has to know and the picture does not show.
    """

    title: str
    x_label: str
    label: str
    edges: Array
    rows: tuple[str, ...]
    values: Array
    limits: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return plain values; None where nothing is known."""
        values = [[None if v != v else v for v in row] for row in self.values.tolist()]
        named = {"title": self.title, "x_label": self.x_label, "label": self.label, "notes": list(self.notes)}
        return {**named, "edges": self.edges.tolist(), "rows": list(self.rows), "values": values}


#: What a figure is made of.
Panel = Curves | Grid


def _plain(curve: Curve) -> dict[str, Any]:
    plain = {"label": curve.label, "failed": curve.failed, "x": curve.x.tolist(), "y": curve.y.tolist()}
    arrays = {"low": curve.low, "high": curve.high, "dots_x": curve.dots_x, "dots_y": curve.dots_y}
    return {**plain, **{name: values.tolist() for name, values in arrays.items() if values is not None}}
