"""Fields of a ring row: shapes, and how ranks that hold parts of tensors combine theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

#: ``sum``, ``norm`` (adds in squares), ``max`` of parts of one thing; ``mean`` of what each rank has seen of its own.
Reduction = Literal["sum", "norm", "max", "mean"]


@dataclass(frozen=True)
class Field:
    """Entry of a row.

    Attributes:
        shape: of one row's entry.
        reduce: how the numbers of several ranks become one; or one word for each index of the first axis.
        along: the parameters, [P], that an axis runs over. Ranks hold shards or copies of these, and of copies one
            counts. None: the entry is of no parameters, and every rank counts.
        axis: which axis of ``shape`` runs over them.
    """

    shape: tuple[int, ...]
    reduce: Reduction | tuple[Reduction, ...]
    along: Sequence[Tensor] | None = None
    axis: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.reduce, str) and len(self.reduce) != self.shape[0]:
            raise ValueError(f"reduce has {len(self.reduce)} words for a first axis of {self.shape[0]}")
