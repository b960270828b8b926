"""Strength schedules: how strong a penalty is at a step, λ_t = λ · factor(step, epoch).

A schedule is written as text, such as ``delayed:5`` (epochs), ``delayed:2000steps`` or
``delayed:auto``, wherever it crosses a command line or a file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

from gradscope import checks
from gradscope.types import InputError

EXAMPLES = ("constant", "delayed:5", "delayed:2000steps", "delayed:auto", "ramp:5", "ramp:2000steps")


class Schedule(ABC):
    """A strength over time. ``step`` counts optimizer steps from 0, ``epoch`` is −1 while unknown."""

    def __init__(self, strength: float) -> None:
        self.strength = checks.strength(strength)

    @abstractmethod
    def factor(self, step: int, epoch: int) -> float:
        """The share of the full strength that acts at this step, from 0 to 1."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The schedule as text; ``parse_schedule`` reads it back."""

    #: True where the schedule counts epochs, which somebody then has to make known.
    needs_epochs: bool = False
    #: True where the schedule waits for the record to show the active phase.
    needs_record: bool = False

    def at(self, step: int, epoch: int = -1) -> float:
        """λ_t."""
        return self.strength * self.factor(step, epoch)

    def active_phase(self, step: int) -> None:  # noqa: B027 - most schedules do not listen
        """Told once, by the recording, that the run has left the baseline at ``step``."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the arguments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """The inverse of ``state_dict``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.strength:g}, {self.text!r})"


class Constant(Schedule):
    """λ from the first step."""

    def factor(self, step: int, epoch: int) -> float:
        return 1.0

    @property
    def text(self) -> str:
        return "constant"


class _Lasting(Schedule):
    """Shared by the schedules that last a number of epochs or of steps."""

    word: str

    def __init__(self, strength: float, *, epochs: float | None = None, steps: int | None = None) -> None:
        super().__init__(strength)
        if (epochs is None) == (steps is None):
            raise InputError(f"{self.word} takes either epochs or steps; got epochs={epochs}, steps={steps}")
        length = epochs if epochs is not None else steps
        assert length is not None
        if length < 0:
            raise InputError(f"{self.word} lasts {length}; expected at least 0")
        self.epochs, self.steps = epochs, steps
        self.needs_epochs = epochs is not None

    @property
    def text(self) -> str:
        return f"{self.word}:{self.epochs:g}" if self.epochs is not None else f"{self.word}:{self.steps}steps"


class Delayed(_Lasting):
    """No penalty for γ epochs or steps, then all of it (Park et al., eq. 8).

    ``Delayed(λ, epochs=5)``, ``Delayed(λ, steps=2000)``, or ``Delayed(λ, "auto")``: off until the
    record of this very run shows its active phase.
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

    def factor(self, step: int, epoch: int) -> float:
        if self.needs_epochs:
            assert self.epochs is not None
            return float(epoch >= self.epochs)
        return float(self.steps is not None and step >= self.steps)

    def active_phase(self, step: int) -> None:
        if self.auto and self.steps is None:
            self.steps = step

    @property
    def text(self) -> str:
        return "delayed:auto" if self.auto else super().text

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps} if self.auto else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.auto:
            self.steps = state["steps"]


class Ramp(_Lasting):
    """From 0 to λ in a straight line over γ epochs or steps (Park et al., appendix B)."""

    word = "ramp"

    def factor(self, step: int, epoch: int) -> float:
        length = self.epochs if self.epochs is not None else self.steps
        assert length is not None
        position = epoch if self.epochs is not None else step
        return min(1.0, max(0, position) / length) if length else 1.0


def parse_schedule(text: str, strength: float = 1.0) -> Schedule:
    """The schedule that a text describes, with its strength.

    >>> parse_schedule("delayed:2000steps", 0.01).at(1999), parse_schedule("delayed:2000steps", 0.01).at(2000)
    (0.0, 0.01)
    """
    word = text.strip().lower()
    if word == "constant":
        return Constant(strength)
    if word == "delayed:auto":
        return Delayed(strength, "auto")
    kinds: dict[str, type[_Lasting]] = {"delayed": Delayed, "ramp": Ramp}
    if match := re.fullmatch(r"(\w+):(\d+(?:\.\d+)?)(steps?|epochs?)?", word):
        kind = kinds.get(match[1])
        if kind is not None:
            if (match[3] or "").startswith("step"):
                if "." in match[2]:
                    raise InputError(f"schedule is {text!r}; a number of steps is a whole number")
                return kind(strength, steps=int(match[2]))
            return kind(strength, epochs=float(match[2]))
    raise InputError(f"schedule is {text!r}; expected one such as {', '.join(EXAMPLES)}")
