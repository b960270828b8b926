"""Base of every strength schedule: λ_t = λ·factor(now), with a text form and a state.

Nothing here knows torch: a schedule is a function of a few plain numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, NamedTuple

from gradscope import checks
from gradscope.types import InputError


class Moment(NamedTuple):
    """What a schedule may depend on.

    Attributes:
        step: optimizer steps done, from 0.
        epoch: number of the epoch, −1 while unknown.
        learning_rate: that of the parameter group.
        highest_rate: the highest that it has had.
        norms: norm of the penalised weights together, by name (``l1``, ``l2``).
    """

    step: int = 0
    epoch: int = -1
    learning_rate: float = math.nan
    highest_rate: float = math.nan
    norms: dict[str, float] = {}  # noqa: RUF012 - never written to


class Schedule(ABC):
    """Strength over time, written as text wherever it crosses a command line or a file.

    Args:
        strength: λ, the full strength.
    """

    #: True where the schedule counts epochs, which somebody then has to make known.
    needs_epochs: bool = False
    #: True where the schedule waits for the record to show the active phase.
    needs_record: bool = False
    #: True where the schedule follows the learning rate.
    needs_rate: bool = False
    #: The norm of the penalised weights that the schedule follows: ``l1``, ``l2`` or none.
    needs_norm: str | None = None
    #: Steps from one look at the training loss to the next; 0: the schedule never looks.
    measures_every: int = 0
    #: Where it may stand in a product: ``anywhere``, ``first`` (it sets a strength, not a share of one) or ``alone``.
    stands: str = "anywhere"

    def __init__(self, strength: float) -> None:
        self.strength = checks.strength(strength)

    @abstractmethod
    def factor(self, now: Moment) -> float:
        """Return the share of the full strength that acts at this moment; a taper or a controller may go above 1.

        Args:
            now: step, epoch and what else the schedule depends on.

        Returns:
            A factor of at least 0.
        """

    @property
    @abstractmethod
    def text(self) -> str:
        """The schedule as text; ``parse_schedule`` reads it back."""

    def at(self, step: int = 0, epoch: int = -1, **seen: Any) -> float:
        """Return λ_t.

        Args:
            step: optimizer steps done.
            epoch: number of the epoch, −1 if unknown.
            **seen: what else a `Moment` holds, such as ``learning_rate=0.01``.

        Returns:
            The strength.
        """
        return self.strength_at(Moment(step, epoch, **seen))

    def strength_at(self, now: Moment) -> float:
        """Return λ_t at a moment.

        Args:
            now: step, epoch and what else the schedule depends on.

        Returns:
            The strength.
        """
        return self.strength * self.factor(now)

    def active_phase(self, step: int) -> None:  # noqa: B027 - most schedules do not listen
        """Note that the run has left the baseline; only the first time counts. A recording calls it.

        Args:
            step: at which it has.
        """

    @property
    def waiting(self) -> bool:
        """Whether the schedule still waits for the active phase."""
        return False

    def observe(self, step: int, loss: float, error: float | None = None) -> None:  # noqa: B027
        """Take training loss and error, every ``measures_every`` steps.

        Args:
            step: of the measurement.
            loss: training loss.
            error: training error, None where there is none.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the arguments, as plain numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned.

        Args:
            state: what `state_dict` returned.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.strength:g}, {self.text!r})"


def number_text(value: float) -> str:
    """Write a number so that it reads back as exactly itself, without a superfluous ``.0``."""
    return repr(float(value)).removesuffix(".0")


class Constant(Schedule):
    """Schedule of λ from the first step on.

    Args:
        strength: λ.
    """

    text = "constant"

    def factor(self, now: Moment) -> float:
        """Return 1."""
        return 1.0


def scheduled(schedule: Schedule | float) -> Schedule:
    """Return a schedule as it is, a number as `Constant` of it; raise `InputError` for anything else."""
    if isinstance(schedule, Schedule):
        return schedule
    number: object = schedule
    if isinstance(number, bool) or not isinstance(number, Real):
        expected = "expected a strength such as 0.01, or a schedule such as gradscope.Constant(0.01)"
        raise InputError(f"schedule is {schedule!r}; {expected}")
    return Constant(float(number))


class Times(Schedule):
    """Product of two schedules: the strength of the first times the factor of the second, ``ramp:5*taper:0.5``."""

    def __init__(self, first: Schedule, second: Schedule) -> None:
        super().__init__(first.strength)
        self.parts = first, second
        self.needs_epochs = first.needs_epochs or second.needs_epochs
        self.needs_record = first.needs_record or second.needs_record
        self.needs_rate = first.needs_rate or second.needs_rate
        if second.stands != "anywhere" or first.stands == "alone":
            wrong = second if second.stands != "anywhere" else first
            raise InputError(f"{wrong.text} sets a strength of its own and cannot be a factor in {self.text}")
        norms = {part.needs_norm for part in self.parts} - {None}
        if len(norms) > 1:
            raise InputError(f"{self.text}: the two bounds are on different norms; take one of them")
        self.needs_norm = norms.pop() if norms else None
        self.measures_every = first.measures_every

    def factor(self, now: Moment) -> float:
        """Return the product of both factors."""
        return self.parts[0].factor(now) * self.parts[1].factor(now)

    def strength_at(self, now: Moment) -> float:
        """Return the strength of the first times the factor of the second."""
        return self.parts[0].strength_at(now) * self.parts[1].factor(now)

    @property
    def text(self) -> str:
        """The texts of both, joined by ``*``."""
        return "*".join(part.text for part in self.parts)

    def active_phase(self, step: int) -> None:
        """Tell both parts that the run has left the baseline."""
        for part in self.parts:
            part.active_phase(step)

    @property
    def waiting(self) -> bool:
        """Whether one of the parts still waits for the active phase."""
        return any(part.waiting for part in self.parts)

    def observe(self, step: int, loss: float, error: float | None = None) -> None:
        """Tell both parts training loss and error."""
        for part in self.parts:
            part.observe(step, loss, error)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the states of both parts."""
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
