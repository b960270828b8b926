"""What a figure of lines shows, as plain arrays: computed before anything is drawn, and what tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    ``low``, ``high`` [K]: an interval around ``y`` [K], NaN where there is none. ``dots_x``, ``dots_y`` [N]: the
    single values behind a mean. ``shade``: a place between 0 and 1 on a scale of colours, in place of a colour of
    its own. ``colour``, ``dash``: its place in the palette and among the dashes, where lines belong together; else
    its place among the curves. ``failed``: the run did not learn; the line ends in a cross.
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
    """A horizontal line to compare with."""

    label: str
    y: float


@dataclass(frozen=True)
class Band:
    """A range of x that is marked, such as the interval of a tolerance level."""

    label: str
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """A panel of lines. ``points``: with markers and error bars. ``stairs``: ``y`` holds until the next ``x``.

    ``scale``: what the shades stand for, from the lightest to the darkest, for a colour bar. ``notes``: what a
    reader has to know and the picture does not show. ``square``: a unit of x is as long as one of y. ``keyed``: a
    legend where there is something to tell apart (empty), ``always``, ``never``, or ``outside`` the axes. ``names``:
    what stands at x = 0, 1, 2 …, in place of numbers.
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
        """Plain values."""
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
    """A panel of coloured cells: ``values`` [K, W] of K rows called ``rows``, between ``edges`` [W + 1] along x.

    ``label``: what the colours stand for; ``limits``: of their scale, None: those of the values.
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
        """Plain values; None where nothing is known."""
        values = [[None if v != v else v for v in row] for row in self.values.tolist()]
        named = {"title": self.title, "x_label": self.x_label, "label": self.label, "notes": list(self.notes)}
        return {**named, "edges": self.edges.tolist(), "rows": list(self.rows), "values": values}


#: What a figure is made of.
Panel = Curves | Grid


def _plain(curve: Curve) -> dict[str, Any]:
    plain = {"label": curve.label, "failed": curve.failed, "x": curve.x.tolist(), "y": curve.y.tolist()}
    arrays = {"low": curve.low, "high": curve.high, "dots_x": curve.dots_x, "dots_y": curve.dots_y}
    return {**plain, **{name: values.tolist() for name, values in arrays.items() if values is not None}}
