"""Part of a recording that a CUDA graph repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from gradscope.recorder.host_rows import HostRow
from gradscope.recorder.meter import Meter
from gradscope.recorder.ring import FIXED


@dataclass(eq=False)
class Captured:
    """What one graph does at each replay, as far as the recorder is concerned.

    Attributes:
        holds: whose memory it writes, for as long as it lives.
        usable: whether its replays can be recorded.
        sampling: whether activations were to be sampled when the capture began.
        passes: meters, by number, whose gradients a captured backward pass leaves.
        optimizers: by identity, those that step.
        row: the host's part of the rows, with strengths and rates as they were at the capture.
        begins: whether this replay has begun a row.
    """

    holds: tuple[Any, ...]
    usable: bool
    sampling: bool
    passes: dict[int, Meter] = field(default_factory=dict)
    optimizers: dict[int, Optimizer] = field(default_factory=dict)
    row: HostRow = field(default_factory=lambda: HostRow(FIXED, 0, 0, 0.0))
    begins: bool = False
