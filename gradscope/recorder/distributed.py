"""Combine several ranks into one record: who measures, how shards become whole tensors, how all ranks decide alike.

Replicated parameters (`DistributedDataParallel`, or all-reduced by hand) are the same everywhere, so rank 0 measures
and judges alone and tells the others what it decided. Sharded ones (FSDP2, any `DTensor`) are measured by everyone,
each its own shard; one packed gather a block of rows, in the background thread and over a gloo group of its own, makes
whole tensors of them on every rank.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from gradscope.recorder.fields import Field, Reduction
from gradscope.recorder.memory import CPU, on_device
from gradscope.torch_utils.ranks import distributed

#: Rows in a gather: the same on every rank, whatever its clock says.
GATHERED_ROWS = 16

TIMEOUT = timedelta(minutes=5)

T = TypeVar("T")
Tables = dict[str, NDArray[np.float32]]


class Ranks:
    """Processes of one training run.

    Attributes:
        rank: this process.
        size: how many there are.
        sharded: this rank holds parts of tensors only.
        by_hand: nothing that is known here reduces the gradients in the backward pass; if anything does, the loop does.
    """

    def __init__(self, rank: int, size: int, sharded: bool, by_hand: bool = False) -> None:
        self.rank, self.size, self.sharded, self.by_hand = rank, size, sharded, by_hand
        # Two groups: one for the training thread, one for the background thread, so that neither overtakes the other.
        self._decisions: Any = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
        self._rows: Any = dist.new_group(backend="gloo", timeout=TIMEOUT) if sharded else None
        self._counted: dict[str, NDArray[np.bool_]] = {}

    @classmethod
    def here(cls, parameters: Sequence[Tensor]) -> Self:
        """Create it from `torch.distributed`, a single rank where that is not in use; all ranks have to call this."""
        if not distributed():
            return cls(0, 1, False)
        sharded = any(hasattr(p, "placements") for p in parameters)
        return cls(dist.get_rank(), dist.get_world_size(), sharded, not sharded and not _in_ddp(parameters))

    def leave(self) -> None:
        """End this rank's part of the groups: their threads must not live on until the interpreter ends.

        There, a gloo thread that still holds a tensor of Python's aborts the process (pytorch issue 190489).
        """
        groups, self._decisions, self._rows = (self._decisions, self._rows), None, None
        for group in groups:
            if group is not None:
                with suppress(ValueError):  # unknown: the training has ended all groups before its recording
                    dist.destroy_process_group(group)

    @property
    def writes(self) -> bool:
        """Whether this rank writes: only rank 0 does."""
        return self.rank == 0

    @property
    def measures(self) -> bool:
        """Whether this rank has anything to measure that no other does."""
        return self.rank == 0 or self.sharded

    def capture(self) -> dict[str, str]:
        """Return for the record's ``capture`` whose numbers are those that each rank has of its own."""
        if self.size == 1:
            return {}
        how = "averaged over ranks" if self.sharded else "of rank 0"
        return {"ranks": f"loss, other logged scalars and activations are {how}"}

    def agree(self, found: T) -> T:
        """Return what rank 0 has found, on every rank. Called by all of them at the same step."""
        return found if self.sharded else self.told(found)  # sharded: every rank has judged the same numbers

    def told(self, found: T) -> T:
        """Return what rank 0 has found, on every rank, whatever these have found themselves."""
        if self._decisions is None:
            return found
        box = [found]
        dist.broadcast_object_list(box, src=0, group=self._decisions)
        return box[0]

    def whole(self, tables: Mapping[Any, Tables], fields: Mapping[Any, Mapping[str, Field]]) -> None:
        """Replace every rank's own numbers, n rows of each field by device, by those of the whole tensors."""
        names = [(device, name) for device in tables for name in tables[device]]
        packed = torch.from_numpy(np.concatenate([tables[d][n].reshape(-1) for d, n in names]))
        gathered = [torch.empty_like(packed) for _ in range(self.size)]
        dist.all_gather(gathered, packed, group=self._rows)
        ranks = torch.stack(gathered).numpy().astype(np.float64)
        at = 0
        for device, name in names:
            field, mine = fields[device][name], tables[device][name]
            every = ranks[:, at : at + mine.size].reshape(self.size, *mine.shape)
            at += mine.size
            counts = np.ones([self.size, *[1] * (every.ndim - 1)], dtype=bool)
            if field.along is not None:
                shape = [self.size, *[1] * (every.ndim - 1)]
                shape[2 + field.axis if field.axis >= 0 else field.axis] = len(field.along)
                counts = self._counts(name, field.along).reshape(shape)
            tables[device][name] = of_all(field.reduce, every, counts).astype(np.float32)

    def same_everywhere(self, count: int) -> bool:
        """Return whether all ranks have this many rows left. Called by all of them at the end."""
        mine = on_device([count], CPU, torch.int64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine, group=self._rows)
        return len({int(n) for n in everyone}) == 1

    def _counts(self, field: str, parameters: Sequence[Tensor]) -> NDArray[np.bool_]:
        """Return whether a rank's shard counts, or is a copy of another's (HSDP, replicated parameters): [W, P]."""
        if field not in self._counted:
            mine = on_device([_first_copy(p, self.rank) for p in parameters], CPU, torch.uint8)
            everyone = [torch.empty_like(mine) for _ in range(self.size)]
            dist.all_gather(everyone, mine, group=self._rows)
            self._counted[field] = torch.stack(everyone).numpy().astype(bool)
        return self._counted[field]


def _in_ddp(parameters: Sequence[Tensor]) -> bool:
    """Return whether `DistributedDataParallel` wraps these parameters: the plain model inside may be given."""
    mine = {id(p) for p in parameters}
    kind = torch.nn.parallel.DistributedDataParallel
    wrappers = [found for found in gc.get_objects() if issubclass(type(found), kind)]
    return any(id(p) in mine for wrapper in wrappers for p in wrapper.parameters())


def _first_copy(parameter: Tensor, rank: int) -> bool:
    placements = getattr(parameter, "placements", None)
    if placements is None:
        return rank == 0
    if parameter.numel() and not parameter._local_tensor.numel():  # type: ignore[attr-defined]
        return False  # fewer rows than ranks: an empty shard, which may have no gradient
    coordinate = parameter.device_mesh.get_coordinate()  # type: ignore[attr-defined]
    if coordinate is None:
        return False
    return all(place == 0 for place, how in zip(coordinate, placements, strict=True) if how.is_replicate())


def of_all(
    reduce: Reduction | tuple[Reduction, ...], ranks: NDArray[np.float64], counts: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Reduce [W, n, …] to [n, …], by one word or by one for each index of the first axis of an entry.

    Args:
        reduce: the word or words.
        ranks: numbers of each rank, [W, n, …].
        counts: whether they count, [W, …], of as many axes, of length 1 where all are alike.

    Returns:
        Numbers of the whole, [n, …].
    """
    if isinstance(reduce, str):
        return merge(reduce, ranks, counts)
    return np.stack([merge(word, ranks[:, :, i], counts[:, :, 0]) for i, word in enumerate(reduce)], 1)


def merge(reduce: Reduction, ranks: NDArray[np.float64], counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Reduce [W, …] to […]: an unknown part leaves the whole unknown; a mean is that of the ranks that know."""
    if reduce == "mean":
        counts = counts & ~np.isnan(ranks)
    filled = np.where(counts, ranks, 0.0)
    if reduce == "max":
        found = filled.max(0)
    elif reduce == "norm":
        found = np.sqrt((filled**2).sum(0))
    elif reduce == "sum":
        found = filled.sum(0)
    else:
        found = filled.sum(0) / np.maximum(counts.sum(0), 1)
    return np.asarray(np.where(counts.any(0), found, np.nan))
