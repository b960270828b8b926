"""Create the recorder's own tensors: of a given dtype and on a given device, and writable wherever they were made.

A script may have set another default dtype or default device, and may make its recording under `torch.inference_mode`:
kernels write to addresses, and what follows from a default they would read as something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor

CPU = torch.device("cpu")


def full(
    shape: Sequence[int], value: float, device: torch.device, dtype: torch.dtype = torch.float32, pinned: bool = False
) -> Tensor:
    """Create a tensor of one value. ``pinned``: in page-locked memory of the host."""
    if not torch.is_inference_mode_enabled():
        return torch.full(tuple(shape), value, dtype=dtype, device=device, pin_memory=pinned)
    with torch.inference_mode(False):
        return torch.full(tuple(shape), value, dtype=dtype, device=device, pin_memory=pinned)


def zeros(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Create a tensor of zeros."""
    return full(shape, 0, device, dtype)


def zeros_like(tensor: Tensor) -> Tensor:
    """Create a tensor of zeros that lies in memory as another does."""
    with torch.inference_mode(False):
        return torch.zeros_like(tensor)


def unknown(shape: Sequence[int], device: torch.device) -> Tensor:
    """Create a tensor of NaN, float32."""
    return full(shape, float("nan"), device)


def on_device(values: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy numbers of the host to a device, without waiting for it."""
    made = torch.tensor(values, dtype=dtype, device=CPU, pin_memory=device.type == "cuda")
    return made.to(device, non_blocking=True)


class no_grad:
    """`torch.no_grad` as a context manager alone, at a third of its cost, which small steps feel."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch._C._set_grad_enabled(self._before)
