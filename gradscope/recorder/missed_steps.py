"""Noticing that a training goes on of which no step is seen: another optimizer steps, a copy of it, or nobody's.

What tells is at hand anyway at the end of a backward pass: since the last pass the weights were written to, or the
gradients replaced, and no recorded optimizer has stepped. A training of a copy of the model makes no passes at
all, but its losses are logged.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from gradscope.recorder.meter import Meter

#: Rounds without a step, in a row, before it is said: in which weights moved; in which gradients were only
#: replaced, as loops may do that look at gradients; in which a loss was logged, with no pass at all.
MOVED, REPLACED, LOGGED = 4, 16, 8


class MissedSteps:
    """Counts the rounds since a step of one optimizer was seen."""

    def __init__(self, meter: Meter) -> None:
        trainable = [w for w in meter.weights if w.requires_grad and not w.is_inference()]
        self._weight: Tensor | None = None if meter.sharded or not trainable else trainable[0]
        self._limits = [MOVED, REPLACED]
        self._counts = [0, 0]
        self._counted = False
        self._version = 0
        self._gradient: tuple[int, int] | None = None
        self.passes = 0
        self.stepped()

    def stepped(self) -> None:
        """A step of this optimizer, or of another on its weights, has ended."""
        if self._counted:  # a loop may have such rounds in every step
            for which, count in enumerate(self._counts):
                if count:
                    self._limits[which] = max(self._limits[which], 2 * count + 1)
                    self._counts[which] = 0
            self._counted = False
        self._gradient = None
        if self._weight is not None:
            self._version = self._weight._version

    def passed(self) -> bool:
        """A backward pass has ended, outside of a step; whether there is anything to be looked at."""
        self.passes += 1
        if self._weight is None or (gradient := self._weight.grad) is None:
            return self._counted
        version, before = self._weight._version, self._gradient
        self._gradient = id(gradient), gradient._version
        moved, self._version = version != self._version, version
        if before is None or self._gradient != (before[0], before[1] + 1):  # else accumulated
            self._counts[0] += moved
            self._counts[1] += before is not None
            self._counted = self._counted or moved or before is not None
        return self._counted

    def found(self, at_the_end: bool = False) -> str:
        """What tells that steps are missed, empty while nothing does."""
        moved, replaced = self._counts
        if moved >= (2 if at_the_end else self._limits[0]):
            return f"the weights were changed before {moved} backward passes"
        if replaced >= self._limits[1]:
            return f"gradients were replaced in {replaced} backward passes"
        return ""


def named(names: Iterable[str], found: str, step: int) -> str:
    """The warning: whose steps, what tells, what to do."""
    rows = "nothing is recorded" if step < 0 else f"its rows end at step {step}"
    return (
        f"no step of the recorded {', '.join(dict.fromkeys(names))} is seen, though {found}: {rows}; another "
        f"optimizer steps, or a copy, or none: give record() the model and the optimizer that are trained"
    )
