"""Ring on the device: preallocated rows, written by kernels where they stand and read in bulk.

One row of one float32 table holds everything that a step leaves on a device, so that many rows leave it in one
transfer. The host's part of a row (step number, time, strengths) waits beside it as a `HostRow`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.recorder.fields import Field
from gradscope.recorder.memory import CPU, full, unknown

#: Bytes that one ring takes on its device at most; fewer rows are kept where they are long.
RING_BYTES = 64 << 20
ROWS = 1024
FEWEST = 48
#: The number of a row beside the ring: the one that captured CUDA graphs write, at every replay.
FIXED = -1


class Ring:
    """Ring of rows on one device.

    Args:
        device: where it lies.
        fields: by name, what a row holds.
    """

    def __init__(self, device: torch.device, fields: Mapping[str, Field]) -> None:
        self.device = device
        self.fields = dict(fields)
        self._places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        width = 0
        for name, field in fields.items():
            self._places[name] = (width, width + prod(field.shape), field.shape)
            width += prod(field.shape)
        width += -width % 4  # all rows aligned alike, so that a kernel is compiled for one kind of address
        self.rows = max(FEWEST, min(ROWS, RING_BYTES // (4 * max(width, 1))))
        self._flat = unknown((self.rows + 1, width), device)
        self.bytes = self._flat.numel() * 4
        # Made once: indexing a tensor costs more than many a kernel on a small one.
        self._views = {
            name: [row.view(shape) for row in self._flat[:, start:stop].unbind(0)]
            for name, (start, stop, shape) in self._places.items()
        }
        self._pinned: Tensor | None = None
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.written_on: Any = None

    def view(self, name: str, row: int) -> Tensor:
        """Return the place of a field in a row or in `FIXED`, a contiguous tensor that shares the ring's memory."""
        return self._views[name][row % self.rows if row >= 0 else row]

    def keep(self, row: int, names: Iterable[str]) -> None:
        """Copy these fields of the fixed row into a row, neighbours at once."""
        spans: list[list[int]] = []
        for start, stop, _ in sorted(self._places[name] for name in names if name in self._places):
            if spans and spans[-1][1] == start:
                spans[-1][1] = stop
            else:
                spans.append([start, stop])
        for start, stop in spans:
            self._flat[row % self.rows, start:stop].copy_(self._flat[FIXED, start:stop])

    def mark(self) -> None:
        """Remember the stream that this thread writes on, for the reader to wait for."""
        if self._stream is not None:
            self.written_on = torch.cuda.current_stream(self.device)

    def read(self, first: int, stop: int) -> dict[str, NDArray[np.float32]]:
        """Return rows first … stop − 1 as host arrays, [n, *shape] each, copied. Called from the background thread."""
        a, b = first % self.rows, (stop - 1) % self.rows + 1
        parts = [self._flat[a:b]] if a < b else [self._flat[a : self.rows], self._flat[:b]]
        if self._stream is None:
            table = np.concatenate([part.cpu().numpy() for part in parts])
        else:
            table = self._through_pinned(parts, stop - first)
        n = stop - first
        return {name: table[:, i:j].reshape(n, *shape) for name, (i, j, shape) in self._places.items()}

    def _through_pinned(self, parts: list[Tensor], n: int) -> NDArray[np.float32]:
        """Transfer in bulk on a side stream; only the background thread waits for it."""
        if self._pinned is None or len(self._pinned) < n:
            self._pinned = full((n, self._flat.shape[1]), 0, CPU, pinned=True)
        written = torch.cuda.Event()
        written.record(self.written_on)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(written)
            at = 0
            for part in parts:
                self._pinned[at : at + len(part)].copy_(part, non_blocking=True)
                at += len(part)
        self._stream.synchronize()
        return np.array(self._pinned[:n].numpy())
