"""Figures against the strength, from plain arrays: means, intervals, axes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import special, stats

from gradscope.report.figures import figure_of
from gradscope.report.strengths import Sample, accuracy_against_sparsity, accuracy_against_strength
from gradscope.types import InputError


def test_accuracy_against_strength_has_t_intervals_of_the_log_odds() -> None:
    values = np.array([[0.9, 0.92, 0.94], [0.5, 0.9, 0.1], [0.1, np.nan, np.nan]])
    shown = accuracy_against_strength([Sample.of("ours", [0.1, 0.01, 1.0], values)], penalty="l2")
    (curve,) = shown.curves
    np.testing.assert_allclose(curve.x, [0.01, 0.1, 1.0])
    np.testing.assert_allclose(curve.y, [0.5, 0.92, 0.1])
    odds, error = special.logit(0.92), stats.sem([0.9, 0.92, 0.94]) / (0.92 * 0.08)
    expected = special.expit(stats.t.interval(0.95, 2, loc=odds, scale=error))
    np.testing.assert_allclose([curve.low[1], curve.high[1]], expected)
    assert 0 <= curve.low[0] < curve.y[0] < curve.high[0] <= 1  # .5, .9 and .1
    assert np.isnan(curve.low[2])  # one run has no interval
    assert shown.notes == ("where a strength has fewer than 3 runs, there is no interval: record more seeds",)
    assert len(curve.dots_x) == 7
    assert shown.x_label == "strength λ (weight_decay is 2λ)"
    flat = accuracy_against_strength([Sample.of("ours", np.repeat([0.1, 0.01, 1.0], 3), values.ravel())])
    np.testing.assert_array_equal(flat.curves[0].y, curve.y)


def test_runs_without_a_penalty_are_a_line_to_compare_with() -> None:
    shown = accuracy_against_strength([Sample.of("from the start", [0, 0, 0.1], [0.8, 0.9, 0.95])])
    assert [(level.label, level.y) for level in shown.levels] == [("from the start: no penalty", pytest.approx(0.85))]
    with pytest.raises(InputError, match="no run has a strength above 0"):
        accuracy_against_strength([Sample.of("", [0.0], [0.8])])


@pytest.mark.parametrize("strength", [1e-2, 3e-5])
def test_a_single_strength_has_an_axis(strength: float) -> None:
    samples = [Sample.of("baseline", [strength], [0.9]), Sample.of("", [0], [0.8])]
    axes = figure_of([accuracy_against_strength(samples)]).axes[0]  # matplotlib's warnings are errors here
    assert axes.get_xlim() == (pytest.approx(strength / 10**0.5), pytest.approx(strength * 10**0.5))


@pytest.mark.parametrize("ends", [(3e-4, 8e-3), (1.1e-3, 9e-3), (3e-3, 0.012), (1e-4, 0.02)])
def test_labels_of_strengths_do_not_run_into_each_other(ends: tuple[float, float]) -> None:
    axes = figure_of([accuracy_against_strength([Sample.of("baseline", ends, [0.9, 0.1])])] * 3).axes[0]
    axes.figure.draw_without_rendering()
    shown = [
        label
        for label in axes.xaxis.get_ticklabels(which="both")
        if label.get_text() and axes.get_xlim()[0] < label.get_position()[0] < axes.get_xlim()[1]
    ]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
    assert len(boxes) >= 2 and all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_accuracy_against_sparsity_goes_by_sparsity() -> None:
    one = Sample.of("l1", [0.1, 0.01], [[0.7, 0.8], [0.9, 0.9]], [[0.9, 0.8], [0.1, 0.3]])
    (curve,) = accuracy_against_sparsity([one]).curves
    np.testing.assert_allclose(curve.x, [0.2, 0.85])
    np.testing.assert_allclose(curve.y, [0.9, 0.75])
    with pytest.raises(InputError, match="has no sparsity"):
        accuracy_against_sparsity([Sample.of("l1", [0.1], [0.7])])


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3,\) strengths, \(2, 3\) values; expected \[N\] and \[N\], or \[K\]"):
        Sample.of("x", [1, 2, 3], np.zeros((2, 3)))
