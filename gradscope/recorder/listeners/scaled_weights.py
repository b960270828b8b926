"""Detect a script that scales the weights between the optimizer's steps: a decay that no optimizer knows of.

What the optimizer leaves of one matrix is kept until its next step begins, in the first steps. If all that has happened
to it by then is a factor below 1, step after step, it is a decay by hand, unless its norm is the same each time: what
holds a norm takes back what a step has added. Averages that are swapped in, a sharpness-aware pass, a clamp or a norm
of rows do something else to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradscope.recorder.host_rows import HostRow
from gradscope.recorder.kernels.kinds import is_familiar
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.unread import Unread
from gradscope.recorder.meter import Meter
from gradscope.recorder.ring import FIXED
from gradscope.recorder.row_buffer import RowBuffer

#: Steps at the start that are looked at, how many have to agree, and the entries of the matrix that are kept.
LOOKED, LEAST, ENTRIES = 12, 6, 1 << 14
#: Rounding errors of its dtype by which a scaled matrix may be off.
ROUNDING = 8
#: How many times larger than another the share that a step takes may be, for both to be one decay.
ALIKE = 2.0
#: How far, as a share of it, a norm that is held may move: held by torch's own norm of ten million floats, 2e-6.
HELD = 1.5e-5
#: Entries of which a norm is taken at once.
AT_ONCE = 1 << 22


class ScaledWeights(Listener):
    """Listener that looks at one matrix of each optimizer in its first steps.

    No row holds what it sees: an error ends the looking, and is named in ``unread``.
    """

    def __init__(self, buffer: RowBuffer, unread: Unread) -> None:
        self._buffer, self._unread = buffer, unread
        self._given_up = False
        self._all: list[Matrix] = []
        self._of: dict[Meter, Matrix] = {}  # those that are looked at still

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Choose a matrix of each meter."""
        looked_at = [meter for meter in meters if meter.device.type in ("cpu", "cuda") and not self._given_up]
        found = {meter: Matrix(meter) for meter in looked_at}
        self._all = list(found.values())
        self._of = {meter: matrix for meter, matrix in found.items() if not matrix.over}

    def before_step(self, meter: Meter, number: int, row: HostRow | None, skipped: bool) -> None:
        """Compare the matrix with what the last step left."""
        if (matrix := self._of.get(meter)) is not None and number != FIXED:
            with self._giving_up():
                matrix.begins()
                if matrix.over:
                    self._of.pop(meter, None)

    def after_step(self, meter: Meter, number: int) -> None:
        """Keep what the step left of the matrix."""
        if (matrix := self._of.get(meter)) is not None and not self._buffer.paused:
            with self._giving_up():
                matrix.stepped()

    @property
    def share(self) -> float:
        """What the script takes of the weights after each of the first steps, as a share of them; 0 for nothing."""
        shares = [0.0]
        with self._giving_up():
            shares += [matrix.share for matrix in self._all]
        return max(shares)

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """End the looking at an error: what was seen until then is not told either."""
        try:
            yield
        except Exception as error:  # the training goes on
            self._given_up, self._all, self._of = True, [], {}
            self._unread.note("weights_scaled_by_hand", error)


class Matrix:
    """One matrix of one optimizer, compared between its first steps."""

    def __init__(self, meter: Meter) -> None:
        weights = [w for w in meter.weights if w.requires_grad and not w.is_inference() and is_familiar(w)]
        weights = [w for w in weights if w.is_contiguous() and not w.is_complex()]
        chosen = next((w for w in weights if w.ndim > 1), None)
        self._weight: Tensor | None = None if meter.sharded else chosen
        self._kept: Tensor | None = None
        self._found: list[Tensor] = []  # of each step, on the device: the factor, what it leaves unexplained, the norm
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
        factors, unexplained, norms = zip(*(each.tolist() for each in found), strict=True)
        if max(norms) - min(norms) < max(HELD, off) * max(norms):
            return 0.0
        shares = [1 - factor for factor in factors]
        same = max(unexplained) < off < min(shares) and max(shares) < min(ALIKE * min(shares), 1.0)
        return sum(shares) / len(shares) if same else 0.0

    @property
    def over(self) -> bool:
        """Whether there is nothing more to look at."""
        return self._weight is None or (self._steps >= LOOKED and self._kept is None)

    def stepped(self) -> None:
        """Keep the entries: a step of this optimizer has ended."""
        if self._weight is None or self._steps >= LOOKED:
            return
        self._steps += 1
        self._kept = self._entries(self._weight).clone()

    def begins(self) -> None:
        """Compare the entries with those that were kept: a step of this optimizer begins."""
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
        parts = self._weight.detach().reshape(-1).split(AT_ONCE)
        norm = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]).norm()
        self._found.append(torch.stack([factor, (now - factor * kept).norm() / square.sqrt(), norm]))

    @staticmethod
    def _entries(weight: Tensor) -> Tensor:
        return weight.detach().reshape(-1)[:ENTRIES]
