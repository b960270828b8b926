"""Collect what a record has been given and does not hold yet. Plain memory: no file, no waiting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.store import schema

#: Bytes of rows that are held while the disk takes none; beyond it the oldest go.
HELD_BYTES = 64 << 20


@dataclass
class Dropped:
    """Rows that memory could not hold until there was space again.

    Attributes:
        count: how many.
        first: the first step.
        last: the last step.
    """

    count: int = 0
    first: int = 0
    last: int = 0

    def add(self, steps: NDArray[Any]) -> None:
        """Count rows of these steps."""
        self.first = self.first if self.count else int(steps[0])
        self.count, self.last = self.count + len(steps), int(steps[-1])


@dataclass
class Pending:
    """Rows, events, epochs, attributes and fixed variables on their way to the file.

    Attributes:
        blocks: rows, as arrays by variable.
        events: step, kind and text of each.
        epochs: metrics by epoch.
        attributes: of the root.
        static: variables that do not grow.
        dropped: rows that are lost.
        since: when the oldest of it came, of `time.monotonic`.
        rows: of all blocks.
        size: bytes of all blocks.
    """

    blocks: list[Mapping[str, NDArray[Any]]] = field(default_factory=list)
    events: list[tuple[int, str, str]] = field(default_factory=list)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    static: dict[str, NDArray[Any]] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=Dropped)
    since: float | None = None  # when the oldest of it came
    rows: int = 0
    size: int = 0

    def add_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Take rows; the oldest are dropped where there are too many."""
        self.blocks.append(block)
        self.rows += len(block[schema.STEP])
        self.size += _size(block)
        while self.size > HELD_BYTES and len(self.blocks) > 1:
            oldest = self.blocks.pop(0)
            self.rows -= len(oldest[schema.STEP])
            self.size -= _size(oldest)
            self.dropped.add(oldest[schema.STEP])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the rows by variable, as one array each; pieces that lack a variable hold its fill value."""
        names = list(dict.fromkeys(name for block in self.blocks for name in block))
        return {name: self._column(name) for name in names}

    def _column(self, name: str) -> NDArray[Any]:
        here = next(block[name] for block in self.blocks if name in block)
        fill = np.nan if here.dtype.kind == "f" else 0
        parts = [
            block[name] if name in block else np.full((len(block[schema.STEP]), *here.shape[1:]), fill, here.dtype)
            for block in self.blocks
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _size(block: Mapping[str, NDArray[Any]]) -> int:
    return sum(values.nbytes for values in block.values())
