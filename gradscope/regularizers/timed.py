"""Schedules that depend on time: steps or epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from gradscope import checks
from gradscope.regularizers.schedule import Moment, Schedule, number_text
from gradscope.types import InputError


def length_text(epochs: float | None, steps: int | None) -> str:
    """Write a length, ``5`` for epochs and ``2000steps`` for steps."""
    return number_text(epochs) if epochs is not None else f"{steps}steps"


class Lasting(Schedule):
    """Base of the schedules that last a number of epochs or of steps."""

    word: str

    def __init__(self, strength: float, *, epochs: float | None = None, steps: int | None = None) -> None:
        super().__init__(strength)
        if (epochs is None) == (steps is None):
            raise InputError(f"{self.word} takes either epochs or steps; got epochs={epochs}, steps={steps}")
        length = epochs if epochs is not None else steps
        assert length is not None
        if not (math.isfinite(length) and length >= 0):
            raise InputError(f"{self.word} lasts {length}; expected at least 0, and not for ever")
        self.epochs, self.steps = epochs, steps
        self.needs_epochs = epochs is not None

    def position(self, now: Moment) -> float:
        """Return where the run is, in the unit of the schedule."""
        return max(0, now.epoch if self.needs_epochs else now.step)

    @property
    def length(self) -> float:
        """How long the schedule lasts, in its unit."""
        length = self.epochs if self.epochs is not None else self.steps
        assert length is not None
        return length

    @property
    def text(self) -> str:
        """The schedule as text, such as ``ramp:5`` or ``ramp:2000steps``."""
        return f"{self.word}:{length_text(self.epochs, self.steps)}"


class Delayed(Lasting):
    """Schedule without a penalty for γ epochs or steps, then with all of it (Park et al., eq. 8).

    ``Delayed(λ, epochs=5)``, ``Delayed(λ, steps=2000)``, or ``Delayed(λ, "auto")``.

    Args:
        strength: λ after the delay.
        gamma: ``"auto"``: off until the record of this very run shows its active phase.
        epochs: length of the delay in epochs.
        steps: length of the delay in steps.
    """

    word = "delayed"

    def __init__(
        self,
        strength: float,
        gamma: str | None = None,
        *,
        epochs: float | None = None,
        steps: int | None = None,
    ) -> None:
        self.auto = gamma == "auto"
        if gamma is not None and not self.auto:
            raise InputError(f"the delay is {gamma!r}; expected 'auto', epochs=… or steps=…")
        if self.auto:
            if epochs is not None or steps is not None:
                raise InputError("the delay is 'auto' and a number at once; give one of them")
            Schedule.__init__(self, strength)
            self.needs_record = True
            self.steps = None
        else:
            super().__init__(strength, epochs=epochs, steps=steps)

    def factor(self, now: Moment) -> float:
        """Return 0 during the delay, 1 after it."""
        if self.auto and self.steps is None:
            return 0.0
        return float((now.epoch if self.needs_epochs else now.step) >= self.length)

    @property
    def length(self) -> float:
        """How long the delay lasts, in its unit."""
        return self.steps if self.auto and self.steps is not None else super().length

    def active_phase(self, step: int) -> None:
        """End the delay ``"auto"`` at this step, the first time."""
        if self.waiting:
            self.steps = step

    @property
    def waiting(self) -> bool:
        """Whether the delay is ``"auto"`` and has not ended."""
        return self.auto and self.steps is None

    @property
    def text(self) -> str:
        """The schedule as text, such as ``delayed:5`` or ``delayed:auto``."""
        return "delayed:auto" if self.auto else super().text

    def state_dict(self) -> dict[str, Any]:
        """Return the step at which the delay ``"auto"`` ended."""
        return {"steps": self.steps} if self.auto else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.auto:
            self.steps = state["steps"]


class Ramp(Lasting):
    """Schedule from 0 to λ in a straight line over γ epochs or steps: the warm start of Park et al., appendix B.

    Args:
        strength: λ at the end.
        epochs: length in epochs.
        steps: length in steps.
    """

    word = "ramp"

    def factor(self, now: Moment) -> float:
        """Return the share of the length that has passed, at most 1."""
        return min(1.0, self.position(now) / self.length) if self.length else 1.0


class StrongFirst(Lasting):
    """Schedule from λ to 0 in a straight line (Park et al., appendix B, where it did not learn at all).

    Args:
        strength: λ at the beginning.
        epochs: length in epochs.
        steps: length in steps.
    """

    word = "strong"

    def factor(self, now: Moment) -> float:
        """Return the share of the length that is left."""
        return max(0.0, 1.0 - self.position(now) / self.length) if self.length else 0.0


class Cyclic(Lasting):
    """Schedule from 0 to λ along half a cosine, again and again.

    The mirror image of the learning rate of SGDR (Loshchilov & Hutter 2016, eq. 5): λ rises while the rate falls, and
    both restart together.

    Args:
        strength: λ at the end of each cycle.
        epochs: length of the first cycle in epochs.
        steps: length of the first cycle in steps.
        times: each cycle is so many times as long as the one before, at least 1.
    """

    word = "cyclic"

    def __init__(
        self, strength: float, *, epochs: float | None = None, steps: int | None = None, times: float = 1
    ) -> None:
        super().__init__(strength, epochs=epochs, steps=steps)
        if self.length == 0:
            raise InputError("a cycle lasts 0; expected a length above 0")
        if not (math.isfinite(times) and times >= 1):
            raise InputError(f"each cycle is {times} times as long as the last; expected a finite number of at least 1")
        self.times = times

    def factor(self, now: Moment) -> float:
        """Return the height of the half cosine at this moment."""
        position, length = self.position(now), self.length
        if self.times == 1:
            return (1 - math.cos(math.pi * (position % length) / length)) / 2
        # The cycles before the n-th last length·(timesⁿ − 1)/(times − 1) together.
        grown, ratio = math.log(self.times), self.times - 1
        n = math.floor(math.log1p(position * ratio / length) / grown + 1e-9)
        within = max(0.0, position - length * math.expm1(n * grown) / ratio)
        return (1 - math.cos(math.pi * min(1.0, within / (length * self.times**n)))) / 2

    @property
    def text(self) -> str:
        """The schedule as text, such as ``cyclic:10x2``."""
        return super().text + (f"x{number_text(self.times)}" if self.times != 1 else "")


class Table(Schedule):
    """Schedule with a factor of λ from each of some epochs or steps on: ``table:0=1,100=8``, ``table:0=0,2000=1steps``.

    Args:
        strength: λ, which the factors multiply.
        epochs: factor from each epoch on, the first from epoch 0.
        steps: factor from each step on, the first from step 0.
    """

    def __init__(
        self, strength: float, *, epochs: Mapping[float, float] | None = None, steps: Mapping[int, float] | None = None
    ) -> None:
        super().__init__(strength)
        if (epochs is None) == (steps is None):
            raise InputError("a table takes either epochs= or steps=, such as epochs={0: 1, 100: 8}")
        rows = dict(epochs) if epochs is not None else dict(steps or {})
        self.rows = [(position, checks.strength(factor, "a factor of the table")) for position, factor in rows.items()]
        positions = [position for position, _ in self.rows]
        if not positions or positions[0] != 0 or any(not a < b < math.inf for a, b in pairwise(positions)):
            raise InputError(f"the table begins at {positions}; expected 0 first, then rising epochs or steps")
        self.needs_epochs = epochs is not None

    def factor(self, now: Moment) -> float:
        """Return the factor of the last row that has begun."""
        position = now.epoch if self.needs_epochs else now.step
        return [factor for start, factor in self.rows if start <= max(0, position)][-1]

    @property
    def text(self) -> str:
        """The schedule as text, such as ``table:0=1,100=8``."""
        rows = ",".join(f"{number_text(position)}={number_text(factor)}" for position, factor in self.rows)
        return f"table:{rows}" + ("" if self.needs_epochs else "steps")
