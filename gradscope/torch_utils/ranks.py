"""Ranks of a distributed run: whether there are several, and averages over them of what a strength depends on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def distributed() -> bool:
    """Return whether other processes train the same model."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_of_those_given(values: Sequence[float], like: Tensor) -> list[float]:
    """Average each value over the ranks that have one (NaN: none); a single process keeps its values."""
    if not distributed():
        return list(values)
    own = torch.tensor(values, dtype=torch.float64, device=like.device)
    given = ~own.isnan()
    both = torch.stack([torch.where(given, own, torch.zeros_like(own)), given.double()])
    dist.all_reduce(both)
    return (both[0] / both[1]).tolist()  # 0/0 where no rank has a value: NaN


def mean_(tensors: Sequence[Tensor]) -> None:
    """Average tensors over the ranks, in place, in one transfer a dtype."""
    if not distributed():
        return
    for dtype in {t.dtype for t in tensors}:
        these = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in these])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for t, part in zip(these, flat.split([t.numel() for t in these]), strict=True):
            t.copy_(part.view_as(t))
