"""Series as one line of block characters."""

from __future__ import annotations

import numpy as np

from gradscope.report.sparkline import sparkline


def test_heights_follow_the_values() -> None:
    assert sparkline(np.arange(8.0)) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 10.0, 100.0], log=True) == "▁▅█"
    assert sparkline([0.0, 1.0], low=0, high=8) == "▁▂"
    assert sparkline([5.0, 5.0, 5.0]) == "▁▁▁"


def test_long_series_are_averaged() -> None:
    assert sparkline(np.repeat([0.0, 1.0], 500), width=10) == "▁▁▁▁▁█████"


def test_what_is_not_there_is_blank() -> None:
    assert sparkline([1.0, np.nan, 2.0]) == "▁ █"
    assert sparkline([0.0, 1.0, 10.0], log=True) == " ▁█"
    assert sparkline([np.nan, np.inf]) == "  "
    assert sparkline([]) == ""
