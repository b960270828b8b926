"""Rows as the host knows them: while they are open, and once the devices' part has been fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Block = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
#: Fields by name, of n rows each.
Fields = dict[str, NDArray[np.float32]]


@dataclass(slots=True)
class HostRow:
    """What the host knows about a row without asking the device.

    Attributes:
        number: its place in the rings.
        step: of the training.
        epoch: −1 while unknown.
        time: since the start of the recording, in seconds.
        strengths: λ of each penalty term.
        rates: learning rates, None for those in the ring.
        taken: the meters that took part, with what is known of their measurement.
        values: logged numbers.
        cells: the names of logged tensors, with a field of the ring and the place there.
        sampled: activations are in it.
        updates: update sizes are in it.
        histograms: histograms are in it.
        skipped: by a GradScaler.
    """

    number: int
    step: int
    epoch: int
    time: float
    strengths: tuple[float, ...] = ()
    rates: list[float | None] = field(default_factory=list)
    taken: dict[int, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    cells: dict[str, tuple[str, int]] = field(default_factory=dict)
    sampled: bool = False
    updates: bool = False
    histograms: bool = False
    skipped: bool = False

    def repeat(self, captured: HostRow) -> None:
        """Take over what was known when a CUDA graph was captured that repeats a row."""
        self.strengths, self.rates, self.skipped = captured.strengths, captured.rates, captured.skipped
        self.sampled, self.updates, self.histograms = captured.sampled, captured.updates, captured.histograms


@dataclass
class FetchedRows:
    """Finished rows, of which listeners make variables.

    Attributes:
        hosts: what the host knows, row by row.
        tables: what the rings held, by device.
        home: what the first one held.
        block: the variables so far.
        sums: the table of all parameters by quantity, [N, P] each, without the factor of a GradScaler.
    """

    hosts: Sequence[HostRow]
    tables: Mapping[torch.device, Fields]
    home: Fields
    block: Block = field(default_factory=dict)
    sums: dict[str, Floats] = field(default_factory=dict)
