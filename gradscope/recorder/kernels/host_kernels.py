"""Kernels of the host, compiled by numba: one pass over memory, float32 on the CPU.

Every argument is an integer: an address or a count. Reading ten arguments of type array would cost more than the sums
of a small layer. Arrays are laid over the addresses inside (`floats` and its kin); the caller answers for their being
alive and of the size said.

Sums run in float32 lanes over blocks of `BLOCK` entries and in float64 from block to block: 1e-6 relative at any size.
A block whose sum of squares leaves the range where float32 is exact enough is squared again in float64. `isfinite` has
to stay right, so of fast mathematics only what reorders sums is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from gradscope.quantities import Sum

REORDER = {"reassoc", "nsz", "contract"}
ONE, NONE = np.float32(1), np.float32(0)
_MAGNITUDE, _INFINITY = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
#: Bounds of a block's sum of squares inside which float32 neither lost entries nor overflowed.
_LOWEST, _HIGHEST = np.float32(1e-26), np.float32(1e37)

#: Entries that are summed in float32 before the sum is carried over to float64.
BLOCK = 1024


def compiled(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile at once for these types, from the cache on disk where one can be written."""

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, nogil=True, fastmath=REORDER, cache=True)(function)
        except (RuntimeError, OSError):  # no folder for the cache, or a full disk: each process compiles anew
            return njit(signature, nogil=True, fastmath=REORDER)(function)

    return compile_


def _at(scalar: Any) -> Any:
    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        signature = types.CPointer(scalar)(types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


floats, doubles, integers, floats_as_bits = _at(types.float32), _at(types.float64), _at(types.int64), _at(types.int32)


@njit(inline="always")
def _exact_squares(address, count):
    total = 0.0
    block = carray(floats(address), (count,))
    for j in range(count):
        total += np.float64(block[j]) * np.float64(block[j])
    return total


@njit(inline="always")
def _exact_dot(w_at, g_at, count):
    total = 0.0
    w, g = carray(floats(w_at), (count,)), carray(floats(g_at), (count,))
    for j in range(count):
        total += np.float64(w[j]) * np.float64(g[j])
    return total


@njit(inline="always")
def _in_range(squares):
    return squares >= _LOWEST and squares <= _HIGHEST


@njit(inline="always")
def _put(out, stride, rows, quantity, column, value):
    if rows[quantity] >= 0:
        out[rows[quantity] * stride + column] = value


@njit(inline="always")
def _sums(w_at, g_at, size):
    """Compute Σ|g|, Σg², Σ|w|, Σw²."""
    g1, g2, w1, w2 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        w, g = carray(floats(w_at + 4 * start), (count,)), carray(floats(g_at + 4 * start), (count,))
        x1, x2, y1, y2 = NONE, NONE, NONE, NONE
        for j in range(count):
            x, y = w[j], g[j]
            x1 += abs(x)
            x2 += x * x
            y1 += abs(y)
            y2 += y * y
        w1 += x1
        g1 += y1
        w2 += x2 if _in_range(x2) or x1 == NONE else _exact_squares(w_at + 4 * start, count)
        g2 += y2 if _in_range(y2) or y1 == NONE else _exact_squares(g_at + 4 * start, count)
    return g1, g2, w1, w2


@njit(inline="always")
def _count_nonfinite(address, count):
    found = 0
    bits = carray(floats_as_bits(address), (count,))
    for j in range(count):
        found += 1 if bits[j] & _INFINITY == _INFINITY else 0
    return found


@njit(inline="always")
def _all(w_at, g_at, size):
    """Compute Σ|g|, Σg², max|g| as bits, entries of g not finite; Σ|w|, Σw², max|w| as bits, non-zeros of w; Σwg.

    The bits of a magnitude are ordered as the magnitude is, with NaN above infinity.

    Returns:
        The nine numbers in this order.
    """
    g1, g2, w1, w2, nonzero, dot = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    w_max, g_max, nonfinite = np.int32(0), np.int32(0), 0
    for start in range(0, size, BLOCK):
        count, w_here, g_here = min(BLOCK, size - start), w_at + 4 * start, g_at + 4 * start
        w, g = carray(floats(w_here), (count,)), carray(floats(g_here), (count,))
        w_bits, g_bits = carray(floats_as_bits(w_here), (count,)), carray(floats_as_bits(g_here), (count,))
        x1, x2, y1, y2, xy, zeros_not = NONE, NONE, NONE, NONE, NONE, NONE
        x_max, y_max = np.int32(0), np.int32(0)
        for j in range(count):
            x, y = w[j], g[j]
            x1 += abs(x)
            x2 += x * x
            y1 += abs(y)
            y2 += y * y
            xy += x * y
            u, v = np.int32(w_bits[j] & _MAGNITUDE), np.int32(g_bits[j] & _MAGNITUDE)
            zeros_not += ONE if u != 0 else NONE
            x_max = u if u > x_max else x_max
            y_max = v if v > y_max else y_max
        in_range = (_in_range(x2) or x_max == 0) and (_in_range(y2) or y_max == 0)
        w1, g1, nonzero = w1 + x1, g1 + y1, nonzero + zeros_not
        w2 += x2 if in_range else _exact_squares(w_here, count)
        g2 += y2 if in_range else _exact_squares(g_here, count)
        dot += xy if in_range else _exact_dot(w_here, g_here, count)
        w_max, g_max = max(w_max, x_max), max(g_max, y_max)
        if y_max >= _INFINITY:
            nonfinite += _count_nonfinite(g_here, count)
    return g1, g2, g_max, nonfinite, w1, w2, w_max, nonzero, dot


_GRADIENT_L1, _GRADIENT_NORM, _GRADIENT_MAX, _GRADIENT_NONFINITE = map(int, tuple(Sum)[:4])
_WEIGHT_L1, _WEIGHT_NORM, _WEIGHT_MAX, _WEIGHT_NONZERO, _DOT = map(int, tuple(Sum)[4:])

# Shape of the tables: pointers [2, count], sizes and columns [count], rows [9] (-1: not wanted).


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def table_of_sums(pointers, sizes, columns, count, rows, out_at, stride):
    """Compute means and norms only. A pointer of 0 gives NaN."""
    pointer, size = carray(integers(pointers), (2 * count,)), carray(integers(sizes), (count,))
    column, row = carray(integers(columns), (count,)), carray(integers(rows), (9,))
    out = carray(floats(out_at), (9 * stride,))
    for i in range(count):
        w_at, g_at = pointer[i], pointer[count + i]
        g1, g2, w1, w2 = _sums(w_at, g_at if g_at else w_at, size[i] if w_at else 0)
        no_w, no_g = 0.0 if w_at else math.nan, 0.0 if g_at and w_at else math.nan
        _put(out, stride, row, _GRADIENT_L1, column[i], g1 + no_g)
        _put(out, stride, row, _GRADIENT_NORM, column[i], math.sqrt(g2) + no_g)
        _put(out, stride, row, _WEIGHT_L1, column[i], w1 + no_w)
        _put(out, stride, row, _WEIGHT_NORM, column[i], math.sqrt(w2) + no_w)


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def table_of_all(pointers, sizes, columns, count, rows, out_at, stride):
    """Compute all nine quantities. A pointer of 0 gives NaN."""
    pointer, size = carray(integers(pointers), (2 * count,)), carray(integers(sizes), (count,))
    column, row = carray(integers(columns), (count,)), carray(integers(rows), (9,))
    out = carray(floats(out_at), (9 * stride,))
    bits = np.zeros(2, np.int32)
    largest = bits.view(np.float32)
    for i in range(count):
        w_at, g_at = pointer[i], pointer[count + i]
        g1, g2, bits[0], nonfinite, w1, w2, bits[1], nonzero, dot = _all(
            w_at, g_at if g_at else w_at, size[i] if w_at else 0
        )
        no_w, no_g = 0.0 if w_at else math.nan, 0.0 if g_at and w_at else math.nan
        _put(out, stride, row, _GRADIENT_L1, column[i], g1 + no_g)
        _put(out, stride, row, _GRADIENT_NORM, column[i], math.sqrt(g2) + no_g)
        _put(out, stride, row, _GRADIENT_MAX, column[i], largest[0] + no_g)
        _put(out, stride, row, _GRADIENT_NONFINITE, column[i], nonfinite + no_g)
        _put(out, stride, row, _WEIGHT_L1, column[i], w1 + no_w)
        _put(out, stride, row, _WEIGHT_NORM, column[i], math.sqrt(w2) + no_w)
        _put(out, stride, row, _WEIGHT_MAX, column[i], largest[1] + no_w)
        _put(out, stride, row, _WEIGHT_NONZERO, column[i], nonzero + no_w)
        _put(out, stride, row, _DOT, column[i], dot + no_g)


@compiled("void(int64, int64, int64)")
def magnitudes(at, size, counts_at):
    """Count the entries by the 8 bits of their exponent, zeros at 256 and NaN at 257, [258] int64."""
    counts = carray(integers(counts_at), (258,))
    lanes = np.zeros((4, 256), np.int64)  # several, so that equal exponents in a row do not wait for each other
    zeros, nans = 0, 0
    bits = carray(floats_as_bits(at), (size,))
    for j in range(size):
        magnitude = np.int32(bits[j] & _MAGNITUDE)
        lanes[j & 3, magnitude >> 23] += 1
        zeros += 1 if magnitude == 0 else 0
        nans += 1 if magnitude > _INFINITY else 0
    for k in range(256):
        counts[k] = lanes[0, k] + lanes[1, k] + lanes[2, k] + lanes[3, k]
    counts[256], counts[257] = zeros, nans
