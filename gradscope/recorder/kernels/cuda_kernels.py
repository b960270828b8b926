"""Kernels of a CUDA device, compiled by Triton: every byte of weight and gradient is read once.

`read_chunks` cuts all tensors of a plan into chunks and reduces each in one program to ten partial sums, in float32
lanes; `join_chunks` adds up the partial sums of each tensor in float64, always in the same order, so that the table is
the same bits at every run. A chunk whose sum of squares leaves the range where float32 is exact enough, or that holds a
number that is not finite, is read again (from the cache) and squared in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gradscope.quantities import Sum

#: Entries a program of `read_chunks` reads, and at a time.
CHUNK: tl.constexpr = tl.constexpr(16384)
BLOCK: tl.constexpr = tl.constexpr(1024)
_MAGNITUDE: tl.constexpr = tl.constexpr(0x7FFFFFFF)
_INFINITY: tl.constexpr = tl.constexpr(0x7F800000)
_LOWEST: tl.constexpr = tl.constexpr(1e-26)
_HIGHEST: tl.constexpr = tl.constexpr(1e37)
# Triton reads no enumerations.
_GRADIENT_L1: tl.constexpr = tl.constexpr(int(Sum.GRADIENT_L1))
_GRADIENT_NORM: tl.constexpr = tl.constexpr(int(Sum.GRADIENT_NORM))
_GRADIENT_MAX: tl.constexpr = tl.constexpr(int(Sum.GRADIENT_MAX))
_GRADIENT_NONFINITE: tl.constexpr = tl.constexpr(int(Sum.GRADIENT_NONFINITE))
_WEIGHT_L1: tl.constexpr = tl.constexpr(int(Sum.WEIGHT_L1))
_WEIGHT_NORM: tl.constexpr = tl.constexpr(int(Sum.WEIGHT_NORM))
_WEIGHT_MAX: tl.constexpr = tl.constexpr(int(Sum.WEIGHT_MAX))
_WEIGHT_NONZERO: tl.constexpr = tl.constexpr(int(Sum.WEIGHT_NONZERO))
_DOT: tl.constexpr = tl.constexpr(int(Sum.DOT))


@triton.jit
def _load(at, offsets, inside_count, MASKED: tl.constexpr):
    # A mask of unknown length would keep the loads from being 16 bytes wide.
    x = tl.load(at + offsets, mask=offsets < inside_count, other=0.0) if MASKED else tl.load(at + offsets)
    return x.to(tl.float32)


@triton.jit
def _lanes(w_at, g_at, w_count, g_count, MASKED: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    w1, w2 = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    g1, g2 = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    wg, nonzero = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.int32)
    w_bits, g_bits = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32)
    stop = tl.minimum(CHUNK, tl.maximum(w_count, g_count)) if MASKED else CHUNK
    for at in range(0, stop, BLOCK):
        x, y = _load(w_at, at + offsets, w_count, MASKED), _load(g_at, at + offsets, g_count, MASKED)
        u, v = x.to(tl.int32, bitcast=True) & _MAGNITUDE, y.to(tl.int32, bitcast=True) & _MAGNITUDE
        w1 += tl.abs(x)
        g1 += tl.abs(y)
        w2 += x * x
        g2 += y * y
        wg += x * y
        nonzero += (u != 0).to(tl.int32)
        w_bits, g_bits = tl.maximum(w_bits, u), tl.maximum(g_bits, v)
    return w1, w2, w_bits, nonzero, g1, g2, g_bits, wg


@triton.jit
def _exact(at, inside_count):
    """Compute Σx² in float64 and the number of entries that are not finite."""
    offsets = tl.arange(0, BLOCK)
    squares = tl.zeros((BLOCK,), tl.float64)
    nonfinite = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, tl.minimum(CHUNK, inside_count), BLOCK):
        x = _load(at, start + offsets, inside_count, True)
        squares += x.to(tl.float64) * x.to(tl.float64)
        nonfinite += ((x.to(tl.int32, bitcast=True) & _INFINITY) == _INFINITY).to(tl.int32)
    return tl.sum(squares, 0), tl.sum(nonfinite, 0)


@triton.jit
def _exact_dot(w_at, g_at, w_count, g_count):
    offsets = tl.arange(0, BLOCK)
    products = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, tl.minimum(CHUNK, w_count), BLOCK):
        x, y = _load(w_at, start + offsets, w_count, True), _load(g_at, start + offsets, g_count, True)
        products += x.to(tl.float64) * y.to(tl.float64)
    return tl.sum(products, 0)


@triton.jit
def _put(partials, chunk, chunks, quantity, value):
    tl.store(partials + quantity * chunks + chunk, value.to(tl.float64))


@triton.jit
def read_chunks(
    pointers, sizes, tensor_of_chunk, start_of_chunk, partials, count, chunks,
    DTYPE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Compute nine partial sums of one chunk of one pair, in the order of `quantities.Sum`; norms squared.

    pointers [2, count], sizes [count], tensor_of_chunk and start_of_chunk [chunks]: int64; partials [9, chunks]
    float64. A pointer of 0 is not read.
    """
    chunk = tl.program_id(0)
    tensor = tl.load(tensor_of_chunk + chunk)
    start = tl.load(start_of_chunk + chunk)
    left = tl.load(sizes + tensor) - start
    w_address, g_address = tl.load(pointers + tensor), tl.load(pointers + count + tensor)
    w_at = w_address.to(tl.pointer_type(DTYPE)) + start
    g_at = g_address.to(tl.pointer_type(DTYPE)) + start
    if ALIGNED:
        w_at, g_at = tl.multiple_of(w_at, 16), tl.multiple_of(g_at, 16)
    w_count = tl.where(w_address != 0, left, 0)
    g_count = tl.where(g_address != 0, left, 0)
    if (w_count >= CHUNK) & (g_count >= CHUNK):
        w1, w2, w_bits, nonzero, g1, g2, g_bits, wg = _lanes(w_at, g_at, w_count, g_count, False)
    else:
        w1, w2, w_bits, nonzero, g1, g2, g_bits, wg = _lanes(w_at, g_at, w_count, g_count, True)
    w_max, g_max = tl.max(w_bits, 0), tl.max(g_bits, 0)
    w_squares, g_squares = tl.sum(w2, 0), tl.sum(g2, 0)
    w_fine = (w_max == 0) | ((w_squares >= _LOWEST) & (w_squares <= _HIGHEST))
    g_fine = (g_max == 0) | ((g_squares >= _LOWEST) & (g_squares <= _HIGHEST))
    w_squares, g_squares, dot = w_squares.to(tl.float64), g_squares.to(tl.float64), tl.sum(wg, 0).to(tl.float64)
    nonfinite = 0
    if not (w_fine & g_fine):
        w_squares, _ = _exact(w_at, w_count)
        g_squares, nonfinite = _exact(g_at, g_count)
        dot = _exact_dot(w_at, g_at, w_count, g_count)
    _put(partials, chunk, chunks, _GRADIENT_L1, tl.sum(g1, 0))
    _put(partials, chunk, chunks, _GRADIENT_NORM, g_squares)
    _put(partials, chunk, chunks, _GRADIENT_MAX, g_max.to(tl.float32, bitcast=True))
    _put(partials, chunk, chunks, _GRADIENT_NONFINITE, nonfinite)
    _put(partials, chunk, chunks, _WEIGHT_L1, tl.sum(w1, 0))
    _put(partials, chunk, chunks, _WEIGHT_NORM, w_squares)
    _put(partials, chunk, chunks, _WEIGHT_MAX, w_max.to(tl.float32, bitcast=True))
    _put(partials, chunk, chunks, _WEIGHT_NONZERO, tl.sum(nonzero, 0))
    _put(partials, chunk, chunks, _DOT, dot)


@triton.jit
def join_chunks(pointers, partials, first_chunk, rows, columns, out, count, chunks, stride, WIDTH: tl.constexpr):
    """Compute the column of one tensor from its partial sums; NaN where a pointer is 0.

    A program takes one quantity of one tensor. first_chunk [count + 1], rows [9] (-1: not wanted) and columns [count]:
    int64. A grid of (count, 9).
    """
    tensor, quantity = tl.program_id(0), tl.program_id(1)
    row, column = tl.load(rows + quantity), tl.load(columns + tensor)
    start, stop = tl.load(first_chunk + tensor), tl.load(first_chunk + tensor + 1)
    total = tl.zeros((WIDTH,), tl.float64)
    largest = tl.zeros((WIDTH,), tl.int32)
    for at in range(start, stop, WIDTH):
        here = at + tl.arange(0, WIDTH)
        part = tl.load(partials + quantity * chunks + here, mask=here < stop, other=0.0)
        total += part
        largest = tl.maximum(largest, part.to(tl.float32).to(tl.int32, bitcast=True) & _MAGNITUDE)
    value = tl.sum(total, 0)
    if (quantity == _GRADIENT_NORM) | (quantity == _WEIGHT_NORM):
        value = tl.sqrt(value)
    value = value.to(tl.float32)
    if (quantity == _GRADIENT_MAX) | (quantity == _WEIGHT_MAX):
        value = tl.max(largest, 0).to(tl.float32, bitcast=True)
    w_address, g_address = tl.load(pointers + tensor), tl.load(pointers + count + tensor)
    of_weight = (quantity >= _WEIGHT_L1) & (quantity <= _WEIGHT_NONZERO)
    missing = (w_address == 0) | ((g_address == 0) & (of_weight == 0))
    value = tl.where(missing, float("nan"), value)
    if row >= 0:  # no mask: the interpreter of Triton 3.2 passes over that of a single number
        tl.store(out + row * stride + column, value)
