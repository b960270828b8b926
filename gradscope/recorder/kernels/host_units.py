"""Kernels of activations on the host: what a module's output adds to the sums of its units, in one pass.

A state is [5, U] float64: entries seen, mean, sum of squared deviations from the mean (M2), Σ|a| and the number of
non-zeros, each of one unit. A batch of outputs joins it as Chan, Golub and LeVeque (1983) join two samples.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from gradscope.recorder.kernels.host_kernels import NONE, ONE, compiled, doubles, floats, integers

#: Entries of a unit that lie side by side, up to which whole rows of memory are read at once.
_SHORT = 32


@njit(inline="always")
def _join(state, unit, entries, total, squares, magnitudes, nonzero):
    mean = total / entries
    deviations = max(squares - total * mean, 0.0) if squares == squares else squares
    seen, distance = state[0, unit], mean - state[1, unit]
    share = entries / (seen + entries)
    state[0, unit] += entries
    state[1, unit] += distance * share
    state[2, unit] += deviations + distance * distance * seen * share
    state[3, unit] += magnitudes
    state[4, unit] += nonzero


@njit(inline="always")
def _add_long_runs(at, outer, units, inner, state):
    for unit in range(units):
        total, squares, magnitudes, nonzero = 0.0, 0.0, 0.0, 0.0
        for i in range(outer):
            run = carray(floats(at + 4 * (i * units + unit) * inner), (inner,))
            for j in range(inner):
                x = np.float64(run[j])
                total += x
                squares += x * x
                magnitudes += abs(x)
                nonzero += 1.0 if x != 0.0 else 0.0
        _join(state, unit, outer * inner, total, squares, magnitudes, nonzero)


@njit(inline="always")
def _add_rows(at, outer, width, sums):
    """Add Σx, Σx², Σ|x|, non-zeros of each column of [outer, width]; four rows at a time, to save stores."""
    total, squares, magnitudes, nonzero = sums[0], sums[1], sums[2], sums[3]
    fours = outer - outer % 4
    for i in range(0, fours, 4):
        rows = carray(floats(at + 4 * i * width), (4, width))
        for k in range(width):
            a, b, c, d = np.float64(rows[0, k]), np.float64(rows[1, k]), np.float64(rows[2, k]), np.float64(rows[3, k])
            total[k] += (a + b) + (c + d)
            squares[k] += (a * a + b * b) + (c * c + d * d)
            magnitudes[k] += (abs(a) + abs(b)) + (abs(c) + abs(d))
            first = (ONE if a != 0.0 else NONE) + (ONE if b != 0.0 else NONE)
            nonzero[k] += first + (ONE if c != 0.0 else NONE) + (ONE if d != 0.0 else NONE)
    for i in range(fours, outer):
        row = carray(floats(at + 4 * i * width), (width,))
        for k in range(width):
            x = np.float64(row[k])
            total[k] += x
            squares[k] += x * x
            magnitudes[k] += abs(x)
            nonzero[k] += 1.0 if x != 0.0 else 0.0


@compiled("void(int64, int64, int64, int64, int64)")
def add_units(at, outer, units, inner, state_at):
    """Add an output that lies in memory as [outer, units, inner] float32 to a state [5, units] float64."""
    state = carray(doubles(state_at), (5, units))
    if inner > _SHORT:
        _add_long_runs(at, outer, units, inner, state)
        return
    sums = np.zeros((4, units * inner), np.float64)
    _add_rows(at, outer, units * inner, sums)
    for unit in range(units):
        total, squares, magnitudes, nonzero = 0.0, 0.0, 0.0, 0.0
        for k in range(unit * inner, (unit + 1) * inner):
            total += sums[0, k]
            squares += sums[1, k]
            magnitudes += sums[2, k]
            nonzero += sums[3, k]
        _join(state, unit, outer * inner, total, squares, magnitudes, nonzero)


@compiled("void(int64, int64, int64)")
def add_magnitudes(at, size, sum_at):
    """Add Σ|x| and the number of entries to [2] float64."""
    total = 0.0
    x = carray(floats(at), (size,))
    for j in range(size):
        total += abs(np.float64(x[j]))
    sums = carray(doubles(sum_at), (2,))
    sums[0] += total
    sums[1] += size


@compiled("void(int64, int64, int64, int64, int64, int64)")
def module_rows(states_at, units_at, modules_at, count, modules, rows_at):
    """Compute rows 0, 1, 2 and 4 of [5, modules] float32: mean |a|, std, share of zeros, share of dead units.

    Tables of the states' addresses, units and modules: [count] int64. NaN for a module without entries.
    """
    states, units = carray(integers(states_at), (count,)), carray(integers(units_at), (count,))
    owner, rows = carray(integers(modules_at), (count,)), carray(floats(rows_at), (5, modules))
    sums = np.zeros((6, modules), np.float64)
    for i in range(count):
        state, module = carray(doubles(states[i]), (5, units[i])), owner[i]
        for unit in range(units[i]):
            entries = state[0, unit]
            if entries > 0.0:
                sums[0, module] += entries
                sums[1, module] += state[3, unit]
                sums[2, module] += state[4, unit]
                sums[3, module] += state[2, unit] / entries
                sums[4, module] += 1.0
                sums[5, module] += 1.0 if state[4, unit] == 0.0 else 0.0
    for module in range(modules):
        entries, seen = sums[0, module], sums[4, module]
        rows[0, module] = sums[1, module] / entries if seen > 0.0 else math.nan
        rows[1, module] = math.sqrt(sums[3, module] / seen) if seen > 0.0 else math.nan
        rows[2, module] = 1.0 - sums[2, module] / entries if seen > 0.0 else math.nan
        rows[4, module] = sums[5, module] / seen if seen > 0.0 else math.nan
