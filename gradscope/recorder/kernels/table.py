"""Compute the table of a step's parameter statistics into a row that is there already.

A `TablePlan` is made once for a list of parameters and settles who reads what: `host_statistics` (numba) reads float32
on the CPU, `cuda_statistics` (Triton) reads CUDA tensors, and `statistics` (foreach) everything else, and at any step
the tensors that turn out different from what was planned. Addresses are read anew at each call, for they may change
from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from gradscope.extras import missing
from gradscope.recorder import memory
from gradscope.recorder.kernels.addresses import is_readable
from gradscope.recorder.kernels.kinds import Unreadable, entries, is_familiar
from gradscope.recorder.kernels.statistics import QUANTITIES, foreach_table
from gradscope.types import InputError

#: Fills some columns of a table; returns the places, in the lists it was given, that it could not read.
Reader = Callable[[Sequence[Tensor], Sequence[Tensor | None], Tensor], Sequence[int]]

#: What the fused kernels read, by type of device.
_FUSED = {"cpu": {torch.float32}, "cuda": {torch.float32, torch.bfloat16, torch.float16}}


@dataclass
class _Part:
    """Parameters of one device that are read in one way."""

    columns: list[int]
    device: torch.device
    reader: Reader | None
    reason: str


class TablePlan:
    """Plan of who reads which parameters: ``plan(weights, gradients, out)`` writes their table into ``out``.

    ``out`` is [Q, P], float32, its rows contiguous, on the device of the parameters (of some of them, where they lie on
    several). NaN stands where there is no gradient.

    Args:
        weights: P plain tensors, of any devices, dtypes and layouts.
        quantities: the rows, names of `gradscope.recorder.kernels.statistics.QUANTITIES`.

    Raises:
        InputError: a name is not a quantity, or there are no parameters.
    """

    def __init__(self, weights: Sequence[Tensor], quantities: Sequence[str]) -> None:
        unknown = [name for name in quantities if name not in QUANTITIES]
        if unknown or not weights:
            given = f"the quantity {unknown[0]!r}" if unknown else "no parameters"
            raise InputError(f"TablePlan got {given}; expected parameters, and quantities of {', '.join(QUANTITIES)}")
        self.quantities = tuple(quantities)
        #: Why the entries of a parameter (by its place) or of its gradient could not be had.
        self.unread: dict[int, str] = {}
        #: Parameters that have had another number of entries than in the beginning.
        self.resized: set[int] = set()
        self._sizes = [w.numel() for w in weights]
        self._parts = _parts(weights, self.quantities, self.unread)
        self._never = frozenset(self.unread)
        self._indices: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def reasons(self) -> list[str]:
        """Who reads which parameters, and why."""
        return [f"{len(part.columns)} parameters: {part.reason}" for part in self._parts]

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], out: Tensor) -> None:
        """Write the table of these parameters and gradients into ``out``."""
        if len(self._parts) == 1:
            self._fill(0, weights, gradients, out)
            return
        for which, part in enumerate(self._parts):
            at = part.columns
            self._fill(which, [weights[i] for i in at], [gradients[i] for i in at], out)

    def _fill(self, which: int, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], out: Tensor) -> None:
        part = self._parts[which]
        if part.reader is not None:
            try:
                odd = self._read(part.reader, which, weights, gradients, out)
            except Exception as error:  # whatever it is, a recorder does not end the run
                part.reader, part.reason = None, f"foreach, for the fused kernel failed: {_line(error)}"
            else:
                if odd:
                    at = [part.columns[i] for i in odd]
                    values = self._foreach(part, at, [weights[i] for i in odd], [gradients[i] for i in odd], out.device)
                    for place, i in enumerate(at):
                        out[:, i].copy_(values[:, place])
                return
        values = self._foreach(part, part.columns, weights, gradients, out.device)
        out.index_copy_(1, self._index(which, out.device), values)

    def _read(
        self,
        reader: Reader,
        which: int,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        out: Tensor,
    ) -> Sequence[int]:
        device = self._parts[which].device
        if out.device == device:
            return reader(weights, gradients, out)
        elsewhere = memory.zeros(out.shape, device)
        odd = reader(weights, gradients, elsewhere)
        mine = elsewhere.index_select(1, self._index(which, device))
        out.index_copy_(1, self._index(which, out.device), mine.to(out.device, non_blocking=True))
        return odd

    def _foreach(
        self,
        part: _Part,
        columns: Sequence[int],
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        device: torch.device,
    ) -> Tensor:
        pairs = zip(columns, weights, strict=True)
        plain = [None if i in self._never else self._had(i, w, "") for i, w in pairs]
        grads = [
            None if g is None else self._had(i, g, "its gradient is ") for i, g in zip(columns, gradients, strict=True)
        ]
        self.resized.update(i for i, w in zip(columns, weights, strict=True) if w.numel() != self._sizes[i])
        try:
            table = foreach_table(plain, grads, self.quantities, part.device)
        except Exception as error:  # an operation that this kind of tensor does not know
            self.unread |= dict.fromkeys(columns, _line(error))
            table = memory.unknown((len(self.quantities), len(columns)), part.device)
        return table.to(device, non_blocking=True)

    def _had(self, column: int, tensor: Tensor, what: str) -> Tensor | None:
        """Return the entries as torch's operations take them; None, and note why, where they cannot be read."""
        if is_familiar(tensor):
            return tensor.detach()
        try:
            return entries(tensor)
        except Exception as error:
            self.unread[column] = what + (str(error) if isinstance(error, Unreadable) else _line(error))
            return None

    def _index(self, which: int, device: torch.device) -> Tensor:
        """Return the columns of a part, on a device. Made once."""
        if (which, device) not in self._indices:
            self._indices[which, device] = memory.on_device(self._parts[which].columns, device, torch.int64)
        return self._indices[which, device]


def bytes_read(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> int:
    """Return the bytes that a table has to read at least: every weight and every gradient once."""
    tensors = [*weights, *(g for g in gradients if g is not None)]
    return sum(t.numel() * t.element_size() for t in tensors)


def _parts(weights: Sequence[Tensor], quantities: Sequence[str], unread: dict[int, str]) -> list[_Part]:
    alike: dict[tuple[torch.device, torch.dtype | None, str], list[int]] = {}
    for i, w in enumerate(weights):
        reason = _why_foreach(w)
        if reason:
            try:
                entries(w)
            except Exception as error:
                unread[i] = str(error) if isinstance(error, Unreadable) else _line(error)
                reason = f"not read, {unread[i]}"
        alike.setdefault((w.device, None if reason else w.dtype, reason), []).append(i)
    parts = []
    for (device, dtype, reason), columns in alike.items():
        reader: Reader | None = None
        if dtype is not None:
            try:
                reader, reason = _reader([weights[i] for i in columns], columns, quantities)
            except Exception as error:  # no numba or Triton here, no compiler, no driver: foreach serves
                reason = f"foreach, for the fused kernel does not work here: {_line(error)}"
        parts.append(_Part(columns, device, reader, reason))
    return parts


def without_kernels(weights: Iterable[Tensor]) -> str | None:
    """Say in one line that parameters on the host will be read by torch's operations for want of numba; else None."""
    if find_spec("numba") is not None or not any(w.is_cpu for w in weights):
        return None
    return f"{missing('recording on the CPU without slowing small models', 'numba')}; torch's operations serve instead"


def _why_foreach(weight: Tensor) -> str:
    """Return why no kernel reads this parameter off memory; empty if one does."""
    if weight.dtype not in _FUSED.get(weight.device.type, ()):
        return f"foreach, for {str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"
    return "" if is_readable(weight) else "foreach, for memory with gaps, or not a plain tensor"


def _reader(weights: Sequence[Tensor], columns: Sequence[int], quantities: Sequence[str]) -> tuple[Reader, str]:
    # Imported where they are needed: either takes half a second, and may be missing.
    if weights[0].device.type == "cpu":
        from gradscope.recorder.kernels.host_statistics import HostReader

        return HostReader(weights, columns, quantities), "numba, one pass over memory"
    from gradscope.recorder.kernels.cuda_statistics import CudaReader

    return CudaReader(weights, columns, quantities), "Triton, one pass over memory"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
