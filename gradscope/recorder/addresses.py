"""Where the entries of parameters and gradients lie, for kernels that read memory and not tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradscope.recorder.kinds import PLAIN, is_plain

NOWHERE = 16
_ODD = -1


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill one piece of memory without gap or overlap, in whatever order of the axes."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def is_readable(tensor: Tensor) -> bool:
    """Whether a kernel may read the entries off memory: dense, and there."""
    return is_plain(tensor) and (not tensor.numel() or (is_dense(tensor) and tensor.data_ptr() != 0))


class Addresses:
    """Reads the addresses of some parameters, all readable and of one dtype and device, and of their gradients.

    A gradient is taken where it lies in memory in its parameter's order. Otherwise, and where a parameter
    is no more what it was, the pair is `odd`: its addresses are 0. A tensor without entries, which may lie nowhere,
    has the address `NOWHERE`. Every tensor is looked at in every call: an assignment to ``.data`` changes
    dtype, size and strides, leaves no mark, and may leave the address as it was.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.dtype, self.device = weights[0].dtype, weights[0].device
        self.sizes = [w.numel() for w in weights]
        # None: row-major, for which `is_contiguous` is asked, faster and indifferent to axes of length 1.
        self._strides = [None if w.is_contiguous() else w.stride() for w in weights]
        self._dtypes = [self.dtype] * len(self.sizes)
        self._contiguous = [strides is None for strides in self._strides]
        self._ordered = [(i, strides) for i, strides in enumerate(self._strides) if strides is not None]
        self._empty = [i for i, size in enumerate(self.sizes) if not size]
        self._known: list[int] = []

    def read(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> tuple[list[int], list[int]]:
        """The addresses of all parameters, then of all gradients (0: none), and the indices of odd pairs."""
        try:
            at = [w.data_ptr() for w in weights]
            if at != self._known or not self._as_they_were(weights):
                if not all(map(self._fits, weights, self.sizes, self._strides)):
                    return self._read_slowly(weights, gradients)
                self._known = [*at]
            dtype = self.dtype
            found = [
                0
                if g is None
                else g.data_ptr() or _ODD
                if g.dtype is dtype
                and type(g) in PLAIN
                and g.numel() == size
                and (g.is_contiguous() if strides is None else g.stride() == strides)
                else _ODD
                for g, size, strides in zip(gradients, self.sizes, self._strides, strict=True)
            ]
        except RuntimeError:  # no storage: sparse, or not a plain tensor
            return self._read_slowly(weights, gradients)
        if _ODD in found:
            return self._read_slowly(weights, gradients)
        for i in self._empty:
            at[i], found[i] = NOWHERE, 0 if gradients[i] is None else NOWHERE
        return [*at, *found], []

    def _as_they_were(self, weights: Sequence[Tensor]) -> bool:
        """Whether dtypes, sizes and orders of axes are those of the plan."""
        return (
            [w.dtype for w in weights] == self._dtypes
            and [w.numel() for w in weights] == self.sizes
            and [w.is_contiguous() for w in weights] == self._contiguous
            and all(_same_order(weights[i], strides) for i, strides in self._ordered)
        )

    def _fits(self, tensor: Tensor, size: int, strides: tuple[int, ...] | None) -> bool:
        if tensor.dtype is not self.dtype or tensor.device != self.device or not is_plain(tensor):
            return False
        in_order = tensor.is_contiguous() if strides is None else _same_order(tensor, strides)
        return tensor.numel() == size and in_order and (not size or tensor.data_ptr() != 0)

    def _read_slowly(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> tuple[list[int], list[int]]:
        self._known = []
        at, found, odd = [], [], []
        for i, (w, g, size, strides) in enumerate(zip(weights, gradients, self.sizes, self._strides, strict=True)):
            fits = self._fits(w, size, strides) and (g is None or self._fits(g, size, strides))
            at.append((w.data_ptr() or NOWHERE) if fits else 0)
            found.append((g.data_ptr() or NOWHERE) if fits and g is not None else 0)
            if not fits:
                odd.append(i)
        return [*at, *found], odd


def _same_order(tensor: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether the strides are these, axes of length 1 aside."""
    return len(strides) == tensor.ndim and all(
        n == 1 or a == b for n, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )
