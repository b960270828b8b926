"""Noticing that a script scales the weights between the optimizer's steps: a decay that no optimizer knows of.

What the optimizer leaves of one matrix is kept until its next step begins, in the first steps. If all that has happened
to it by then is a factor below 1, step after step, it is a decay by hand. Averages that are swapped in, a
sharpness-aware pass, a clamp or a norm of rows do something else to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.recorder.kernels.kinds import is_familiar
from gradscope.recorder.meter import Meter

#: Steps at the start that are looked at, how many have to agree, and the entries of the matrix that are kept.
LOOKED, LEAST, ENTRIES = 12, 6, 1 << 14
#: Rounding errors of its dtype by which a scaled matrix may be off.
ROUNDING = 8
#: How many times larger than another the share that a step takes may be, for both to be one decay.
ALIKE = 2.0


class ScaledWeights:
    """Looks at what becomes of one matrix of one optimizer between its first steps."""

    def __init__(self, meter: Meter) -> None:
        weights = [w for w in meter.weights if w.requires_grad and not w.is_inference() and is_familiar(w)]
        weights = [w for w in weights if w.is_contiguous() and not w.is_complex()]
        chosen = next((w for w in weights if w.ndim > 1), None)
        self._weight: Tensor | None = None if meter.sharded else chosen
        self._kept: Tensor | None = None
        self._found: list[Tensor] = []  # of each step: the factor, and what it leaves unexplained, on the device
        self._steps = 0

    @property
    def share(self) -> float:
        """What the script takes of the weights after each step, as a share of them; 0 where it does not.

        Waits for the device.
        """
        found = self._found
        if self._weight is None or len(found) < LEAST:
            return 0.0
        off = ROUNDING * torch.finfo(self._weight.dtype).eps
        factors, unexplained = zip(*(pair.tolist() for pair in found), strict=True)
        shares = [1 - factor for factor in factors]
        same = max(unexplained) < off < min(shares) and max(shares) < min(ALIKE * min(shares), 1.0)
        return sum(shares) / len(shares) if same else 0.0

    def stepped(self) -> None:
        """A step of this optimizer has ended."""
        if self._weight is None or self._steps >= LOOKED:
            return
        self._steps += 1
        self._kept = self._entries(self._weight).clone()

    def begins(self) -> None:
        """A step of this optimizer begins."""
        kept, self._kept = self._kept, None
        if kept is None or self._weight is None:
            return
        now = self._entries(self._weight)
        if now.shape != kept.shape or now.device != kept.device:
            self._weight = None
            return
        now, kept = now.double(), kept.double()
        square = kept.square().sum()
        factor = (now * kept).sum() / square
        self._found.append(torch.stack([factor, (now - factor * kept).norm() / square.sqrt()]))

    @staticmethod
    def _entries(weight: Tensor) -> Tensor:
        return weight.detach().reshape(-1)[:ENTRIES]
