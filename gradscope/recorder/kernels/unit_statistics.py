"""Sum up a module's outputs over a step: mergeable sums of each unit, on the outputs' device."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from gradscope.recorder.kernels.addresses import is_dense, is_readable
from gradscope.recorder.kernels.kinds import Unreadable, entries, is_plain
from gradscope.recorder.memory import zeros

#: The rows of a state: entries seen, mean, sum of squared deviations (M2), Σ|a|, non-zeros; of each unit.
STATE_ROWS = 5

_SPATIAL = re.compile(r"(?:Conv|Pool)\D*(\d)d")
_FEATURES_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


def place_of_units(module: nn.Module) -> int | None:
    """Return the axis of a module's units, from the front or (negative) from the back; None: its type does not tell."""
    names = [kind.__name__ for kind in type(module).__mro__]
    spatial = next((found for name in names if (found := _SPATIAL.search(name))), None)
    if spatial:  # with or without an axis of samples in front
        return -1 - int(spatial[1])
    if isinstance(module, _FEATURES_LAST) or "Conv1D" in names:  # GPT-2's Conv1D is a linear layer
        return -1
    return (
        1
        if any(part in name for name in names for part in ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm"))
        else None
    )


def number_of_units(module: nn.Module) -> int | None:
    """Return how many units a module has, where its type tells; None for a ReLU and its like."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return int(module.normalized_shape[-1])
    if isinstance(module, nn.RNNBase):
        return int(module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    names = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "nf")
    return next((int(getattr(module, name)) for name in names if isinstance(getattr(module, name, None), int)), None)


def unit_axis(place: int | None, ndim: int) -> int:
    """Return the axis of an output's units: channels of convolutions, poolings and norms over channels, else features.

    Of a module that could be either (ReLU, Dropout): channels where there are more than three axes.

    Returns:
        The axis, from the front.
    """
    if place is None:
        return 1 if ndim > 3 else ndim - 1
    return min(max(place if place >= 0 else ndim + place, 0), ndim - 1)


#: By a number as text: compiled code can hand over constants, and of numbers that differ torch 2.6 makes variables.
_BY_KEY: WeakValueDictionary[str, UnitStatistics] = WeakValueDictionary()
_KEYS = count()


_READ_BY_KERNELS = (torch.float32, torch.bfloat16, torch.float16)


class UnitStatistics:
    """Sums of one module over the forwards of a step, by number of units (a shared ReLU may have several)."""

    def __init__(self, module: nn.Module) -> None:
        self.states: dict[int, Tensor] = {}  # [STATE_ROWS, U]; float64 on the host, float32 elsewhere
        self.delta: Tensor | None = None  # [2]: Σ|δ|, entries
        self.compiled = False  # whether outputs are added by compiled code
        self.odd = ""  # why an output was not added
        self._place = place_of_units(module)
        self._addresses: dict[int, int] = {}  # of states on the host
        self._key = str(next(_KEYS))
        _BY_KEY[self._key] = self

    def add(self, output: Tensor) -> None:
        """Add an output, in whatever way its device allows, or raise `Unreadable`; may be compiled."""
        if not output.ndim:  # one number: one unit, one sample
            output = output.detach().reshape(1)
        if torch.compiler.is_compiling():
            axis = unit_axis(self._place, output.ndim)
            units = output.shape[axis]
            _prepare(self._key, units, output.dtype, output.device)
            join(getattr(self, f"state_of_{units}"), output.detach(), axis)
            return
        add_units = host_kernel("add_units") if output.is_cpu else None
        if add_units is None or output.dtype not in _READ_BY_KERNELS or not is_plain(output):
            self._add_exactly(output)
            return
        axis = unit_axis(self._place, output.ndim)
        units = output.shape[axis]
        # Reading an address needs no detaching, and a detached tensor costs more than the sums of a small layer.
        at = output if output.dtype is torch.float32 else output.detach().float()
        if not at.is_contiguous() and not is_dense(at):
            at = at.detach().contiguous()
        start = at.data_ptr()
        if not start:
            raise Unreadable("without memory, which was given back")
        address = self._addresses.get(units)
        if address is None:
            address = self.new_state(units, output.dtype, output.device).data_ptr()
        # In dense memory, what lies between neighbouring units is the product of the axes inside.
        inner = at.stride(axis) if units > 1 else at.numel()
        add_units(start, at.numel() // (units * inner), units, inner, address)

    def _add_exactly(self, output: Tensor) -> None:
        """Add an output of any kind with torch's operations; raise `Unreadable` where there are no real numbers."""
        a = entries(output)
        if a.is_complex():
            raise Unreadable(str(a.dtype).removeprefix("torch."))
        axis = unit_axis(self._place, a.ndim)
        units = a.shape[axis]
        state = self.states.get(units)
        if state is None or state.device != a.device:
            state = self.new_state(units, a.dtype, a.device)
        join(state, a, axis)

    def add_delta(self, gradient: Tensor, before: Tensor | None = None) -> None:
        """Add ∂L/∂output. ``before``: what earlier passes have added of the same output already."""
        if self.delta is None:
            self.delta = zeros((2,), gradient.device, _state_type(gradient.dtype, gradient.device))
        add_magnitudes = host_kernel("add_magnitudes") if gradient.is_cpu else None
        if before is not None:
            self.delta[0].add_(_magnitudes(before + entries(gradient)) - _magnitudes(before))
        elif add_magnitudes is not None and gradient.dtype is torch.float32 and is_readable(gradient):
            add_magnitudes(gradient.data_ptr(), gradient.numel(), self.delta.data_ptr())
        else:
            g = entries(gradient)
            self.delta[0].add_(_magnitudes(g))
            self.delta[1].add_(g.numel())

    def new_state(self, units: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Create the state of this many units."""
        state = zeros((STATE_ROWS, units), device, _state_type(dtype, device))
        self.states[units] = state
        if device.type == "cpu":
            self._addresses[units] = state.data_ptr()
        else:
            self._addresses.pop(units, None)
        # Compiled code reads an attribute: what it sees of a dictionary is as it was when it first looked.
        setattr(self, f"state_of_{units}", state)
        return state


def _prepare(key: str, units: int, dtype: torch.dtype, device: torch.device) -> int:
    """Create a state for an output while code is compiled, not when it runs.

    Inside a checkpoint compiled code may change tensors that are there, but nothing else.

    Returns:
        The number of units.
    """
    module = _BY_KEY[key]
    module.compiled = True
    if units not in module.states or module.states[units].device != device:
        module.new_state(units, dtype, device)
    return units


# All that torch.compiler.assume_constant_result does, which imports the compiler for it: two seconds.
_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


def join(state: Tensor, output: Tensor, axis: int) -> None:
    """Add an output to a state with torch's operations: twin of `gradscope.recorder.kernels.host_units.add_units`."""
    a = output if output.dtype is torch.float64 else output.float()
    a = a.movedim(axis, -1)
    a = a.unsqueeze(0) if a.ndim == 1 else a
    others = list(range(a.ndim - 1))
    n = a.numel() // a.shape[-1]
    variance, mean = torch.var_mean(a, others, correction=0)
    sums = torch.stack((torch.linalg.vector_norm(a, 1, others), torch.linalg.vector_norm(a, 0, others)))
    share = n / (state[0] + n)
    distance = mean - state[1]
    state[2].add_(variance + distance * distance * (1 - share), alpha=n)
    state[1].addcmul_(distance.to(state.dtype), share)
    state[0].add_(n)
    state[3:].add_(sums)


def _magnitudes(g: Tensor) -> Tensor:
    """Compute Σ|g|, of complex entries of their moduli."""
    total: Tensor = torch.linalg.vector_norm(g, 1, dtype=torch.promote_types(g.dtype, torch.float32))
    return total


def _state_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    return torch.float64 if device.type == "cpu" or dtype is torch.float64 else torch.float32


@cache
def host_kernel(name: str) -> Callable[..., Any] | None:
    """Return a kernel of the host by name, None without numba."""
    try:
        from gradscope.recorder.kernels import host_units  # here, for it takes half a second
    except ImportError:  # no numba
        return None
    kernel: Callable[..., Any] = getattr(host_units, name)
    return kernel
