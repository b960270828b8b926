"""Sort tensors into those that a kernel may read off memory, those that torch's operations read, and the rest.

A kernel is told an address and a count, and believes them. What lies there is asked of the tensor at every call: its
class, layout, dtype and device, and that its memory has not been given back. Everything else goes through `entries`,
which lays the numbers out as torch knows them, or says why it cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Nothing but a tensor: subclasses may mean other numbers than those in their memory, or have no memory.
PLAIN = (Tensor, torch.nn.Parameter)
#: What torch's reductions take as it is.
FAMILIAR = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128))
_COPIED = {
    getattr(torch, name): torch.float32
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    if hasattr(torch, name)
} | {torch.complex32: torch.complex64}
#: Entries up to which a sparse tensor that is no gradient is laid out densely.
LARGEST_DENSE = 1 << 24


class Unreadable(Exception):
    """Error of a tensor whose entries cannot be read; says what it is."""


def is_plain(tensor: Tensor) -> bool:
    """Return whether the entries lie in memory as dtype and strides say."""
    return (
        type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
        and not tensor.is_conj()
    )


def is_familiar(tensor: Tensor) -> bool:
    """Return whether torch's operations may be given the tensor as it is."""
    return (
        type(tensor) in PLAIN
        and tensor.dtype in FAMILIAR
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and (tensor.data_ptr() != 0 or not tensor.numel())
    )


def entries(tensor: Tensor) -> Tensor:
    """Return the entries as a plain strided tensor of a familiar dtype, without a copy if possible, or raise."""
    if type(tensor) not in PLAIN and not tensor.is_nested:
        tensor = _without_its_class(tensor)
    tensor = tensor.detach()
    if tensor.is_meta:
        raise Unreadable("on the device meta, without numbers")
    if tensor.is_quantized:
        raise Unreadable(f"quantized, {_short(tensor.dtype)}")
    if tensor.is_nested:
        return entries(_parts(tensor))
    if tensor.layout is not torch.strided:
        if tensor.numel() > LARGEST_DENSE and tensor.layout is not torch.sparse_coo:
            raise Unreadable(f"{_short(tensor.layout)}, too large to lay out densely")
        tensor = tensor.to_dense()
    if tensor.dtype not in FAMILIAR:
        if tensor.dtype not in _COPIED:
            raise Unreadable(_short(tensor.dtype))
        tensor = tensor.to(_COPIED[tensor.dtype])
    if tensor.numel() and not tensor.data_ptr():
        raise Unreadable("without memory, which was given back")
    return tensor


def _without_its_class(tensor: Tensor) -> Tensor:
    """Strip a subclass that is memory and a name; raise for one that answers operations by itself."""
    kind = type(tensor)
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise Unreadable(f"a {kind.__name__}")
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def _parts(nested: Tensor) -> Tensor:
    """Join the parts of a nested tensor, [rows, features]: axes but the last are joined."""
    if nested.layout is torch.jagged:
        if getattr(nested, "_ragged_idx", 1) != 1 or getattr(nested, "_lengths", None) is not None:
            raise Unreadable("nested, with holes or another axis than the second ragged")
        return nested.values()
    parts = nested.unbind()
    if len({part.shape[-1:] for part in parts}) != 1:
        raise Unreadable("nested, its parts of different widths")
    return torch.cat([part.reshape(-1, *part.shape[-1:]) for part in parts])


def _short(what: object) -> str:
    return str(what).removeprefix("torch.")
