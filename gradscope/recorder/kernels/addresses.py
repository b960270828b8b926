"""Addresses of parameters and gradients, for kernels that read memory and not tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from gradscope.recorder.kernels.kinds import is_plain

NOWHERE = 16
#: Sets of parameters without a gradient that are distinguished; a loop may leave out others at every step.
MOST_PATTERNS = 16

#: Test of tensors.
Alike = Callable[..., bool]


def is_dense(tensor: Tensor) -> bool:
    """Return whether the entries fill one piece of memory without gap or overlap, in whatever order of the axes."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def is_readable(tensor: Tensor) -> bool:
    """Return whether a kernel may read the entries off memory: dense, and there."""
    return is_plain(tensor) and (not tensor.numel() or (is_dense(tensor) and tensor.data_ptr() != 0))


class Addresses:
    """Addresses of some parameters, all readable and of one dtype and device, and of their gradients.

    A gradient is taken where it lies in memory in its parameter's order. Otherwise, and where a parameter is no longer
    what it was, the pair is `odd`: its addresses are 0. A tensor without entries, which may lie nowhere, has the
    address `NOWHERE`. Every tensor is looked at in every call: an assignment to ``.data`` changes dtype, size and
    strides, leaves no mark, and may leave the address as it was.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.dtype, self.device = weights[0].dtype, weights[0].device
        self.sizes = [w.numel() for w in weights]
        # None: row-major, for which `is_contiguous` is asked, indifferent to axes of length 1.
        self._strides = [None if w.is_contiguous() else w.stride() for w in weights]
        self._empty = [i for i, size in enumerate(self.sizes) if not size]
        # Whether tensors are as they were when every one of them fitted: the parameters, and by which of them
        # have no gradient, the gradients of the others.
        self._weights_alike: Alike | None = None
        self._gradients_alike: dict[tuple[int, ...], Alike] = {}

    def read(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> tuple[list[int], list[int]]:
        """Return the addresses of all parameters, then of all gradients (0: none), and the indices of odd pairs."""
        absent = tuple([i for i, g in enumerate(gradients) if g is None])
        present = [g for g in gradients if g is not None]
        if not self._fit(weights, gradients, present, absent):
            return self._read_one_by_one(weights, gradients)
        at = [w.data_ptr() for w in weights]
        found = [g.data_ptr() for g in present]
        for i in absent:
            found.insert(i, NOWHERE)
        for i in self._empty:
            at[i] = found[i] = NOWHERE
        if 0 in at or 0 in found:  # memory that was given back
            return self._read_one_by_one(weights, gradients)
        for i in absent:
            found[i] = 0
        return [*at, *found], []

    def _fit(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        present: Sequence[Tensor],
        absent: tuple[int, ...],
    ) -> bool:
        """Return whether all are what they should be: as they were when that was asked one by one, or asked now."""
        if self._weights_alike is None or not self._weights_alike(*weights):
            if not all(map(self._fits, weights, self.sizes, self._strides)):
                return False
            self._weights_alike = _alike(weights)
        alike = self._gradients_alike.get(absent)
        if alike is None or not alike(*present):
            each = zip(gradients, self.sizes, self._strides, strict=True)
            if not all(g is None or self._fits(g, size, strides) for g, size, strides in each):
                return False
            made = _alike(present)
            if made is not None and (alike is not None or len(self._gradients_alike) < MOST_PATTERNS):
                self._gradients_alike[absent] = made
        return True

    def _fits(self, tensor: Tensor, size: int, strides: tuple[int, ...] | None) -> bool:
        if tensor.dtype is not self.dtype or tensor.device != self.device or not is_plain(tensor):
            return False
        in_order = tensor.is_contiguous() if strides is None else _same_order(tensor, strides)
        return tensor.numel() == size and in_order and (not size or tensor.data_ptr() != 0)

    def _read_one_by_one(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> tuple[list[int], list[int]]:
        at, found, odd = [], [], []
        for i, (w, g, size, strides) in enumerate(zip(weights, gradients, self.sizes, self._strides, strict=True)):
            fits = self._fits(w, size, strides) and (g is None or self._fits(g, size, strides))
            at.append((w.data_ptr() or NOWHERE) if fits else 0)
            found.append((g.data_ptr() or NOWHERE) if fits and g is not None else 0)
            if not fits:
                odd.append(i)
        return [*at, *found], odd


def _same_order(tensor: Tensor, strides: tuple[int, ...]) -> bool:
    """Return whether the strides are these, axes of length 1 aside."""
    return len(strides) == tensor.ndim and all(
        n == 1 or a == b for n, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )


def _alike(tensors: Sequence[Tensor]) -> Alike | None:
    """Return a test whether tensors have class, layout, dtype, device, sizes and strides of these.

    It is what compiled code asks of its inputs, one call for all of them: asking from Python costs five times as much.

    Returns:
        A function of the tensors; None where torch has none.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards
    except ImportError:
        return None
    test: Alike = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    return test
