"""Tell one step of an optimizer from the ``step()`` methods of its classes that run inside one another.

torch wraps the ``step`` of every class that was ever made an object of, so hooks run once more for each
``super().step()``: where the parent class is in use by itself, and not elsewhere.
"""

from __future__ import annotations

import sys
from types import FrameType

from torch.optim import Optimizer

#: The function that calls step hooks, around each class's own ``step``.
_CALLER = Optimizer.profile_hook_step(lambda: None).__code__


class OneStep:
    """Detector of the beginning and the end of a whole step, for one optimizer and one owner of hooks on it."""

    def __init__(self) -> None:
        self.running = False  # or its last step has raised
        self._nested = False

    def begins(self, optimizer: Optimizer) -> bool:
        """Return whether a whole step begins; False inside another ``step()`` of this optimizer. For a pre-hook."""
        if self.running and _inside_another(optimizer):
            self._nested = True
            return False
        self.running, self._nested = True, False
        return True

    def ends(self, optimizer: Optimizer) -> bool:
        """Return whether a whole step ends. For a post-hook."""
        if self._nested and _inside_another(optimizer):
            return False
        self.running = self._nested = False
        return True


def _inside_another(optimizer: Optimizer) -> bool:
    frame: FrameType | None = sys._getframe(2)
    steps = 0
    while frame is not None and steps < 2:
        steps += frame.f_code is _CALLER and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps > 1
