"""Figures that are drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from analyses.common.study import Drawing
from gradscope.report.curves import Curves
from gradscope.report.figures import figure_of, save
from gradscope.report.style import Style


def drawn(panels: Sequence[Curves], style: Style) -> Drawing:
    """These panels side by side."""
    return lambda path: save(figure_of(panels, style), path, style)
