"""Controllers: schedules that are fed with training loss and error ("Improving L2 Regularization based on Auto L2").

`decide` is the four algorithms of that document as one pure function, from state and measurement to state. `AutoL2` and
`AdvanceL2` hold such a state in the place of a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gradscope import checks
from gradscope.regularizers.schedule import Moment, Schedule, number_text
from gradscope.types import InputError


@dataclass(frozen=True)
class ControlRule:
    """Constants of an algorithm, which tell the four apart.

    Attributes:
        decay: ``decay_factor``, by which λ falls.
        threshold: α, in percent (methods 1 and 3).
        increase: λ may rise too (methods 2 and 3).
        cooldown: numerator of the cool-down in steps, cooldown/λ_new: 0.1 in the pseudocode, 10 in the text.
        ceiling: λ never rises above it (section 5 of the document suggests one).
    """

    decay: float = 0.1
    threshold: float = 0.0
    increase: bool = False
    cooldown: float = 0.1
    ceiling: float = math.inf


@dataclass(frozen=True)
class State:
    """State of a controller between two measurements.

    Attributes:
        strength: λ.
        min_step: MIN_STEP, the step after which λ may change again.
        min_loss: MINLOSS.
        min_error: MINERROR.
        last_loss: LOSS of the measurement before.
        last_error: ERROR of the measurement before.
    """

    strength: float
    min_step: float = 0.0
    min_loss: float = math.inf
    min_error: float = math.inf
    last_loss: float = math.nan
    last_error: float = math.nan


def decide(rule: ControlRule, state: State, step: int, loss: float, error: float = math.nan) -> State:
    """Apply one measurement of algorithm 1 (methods 1, 2 and 3: algorithms 2, 3 and 4) to a controller's state.

    The first measurement initialises the minima and decides nothing: read literally, algorithm 3 compares with an
    infinite minimum at every measurement and multiplies λ for ever.

    Args:
        rule: the algorithm and its constants.
        state: the state before.
        step: optimizer step of the measurement.
        loss: training loss; a loss that is not finite counts as infinite.
        error: training error; without one (NaN) the loss decides alone.

    Returns:
        The state after the measurement.
    """
    loss = loss if math.isfinite(loss) else math.inf
    measured = replace(state, last_loss=loss, last_error=error)
    if math.isnan(state.last_loss):
        return replace(measured, min_loss=loss, min_error=error)
    share = 1 + rule.threshold / 100
    pairs = ((loss, state.last_loss, state.min_loss), (error, state.last_error, state.min_error))
    rises = any(now > least * share and before > least * share for now, before, least in pairs)
    falls = any(now * share < least and before * share < least for now, before, least in pairs)
    if rises and step > state.min_step:
        return _changed(rule, measured, step, state.strength * rule.decay)
    # At the ceiling nothing changes, so the minima follow again: otherwise every later loss is held against an old one.
    if falls and rule.increase and step > state.min_step and state.strength < rule.ceiling:
        return _changed(rule, measured, step, min(state.strength / rule.decay, rule.ceiling))
    return replace(
        measured,
        min_loss=_least(state.last_loss, state.min_loss),
        min_error=_least(state.last_error, state.min_error),
    )


def _least(first: float, second: float) -> float:
    """Return the smaller number; NaN stands for nothing measured yet."""
    return second if math.isnan(first) else first if math.isnan(second) else min(first, second)


def _changed(rule: ControlRule, state: State, step: int, strength: float) -> State:
    # Beyond the range of floats the strength stays where it is; at 0 the cool-down would never end anyway.
    if not math.isfinite(strength) or strength == 0:
        return state
    return replace(state, strength=strength, min_step=rule.cooldown / strength + step)


class Controller(Schedule):
    """Schedule whose strength follows from the training loss and error that it is told."""

    word: str
    stands = "first"

    def __init__(self, strength: float, rule: ControlRule, every: int) -> None:
        super().__init__(strength)
        if self.strength == 0:
            raise InputError("a controller multiplies its strength, so it cannot start at 0; 0.1 is what Auto L2 takes")
        if not 0 < rule.decay < 1:
            raise InputError(f"decay is {rule.decay:g}; expected a factor between 0 and 1, such as 0.1")
        checks.strength(rule.threshold, "threshold")
        checks.strength(rule.cooldown, "cooldown")
        if not rule.ceiling >= self.strength:
            raise InputError(f"the ceiling is {rule.ceiling:g}, below the strength {self.strength:g} to start with")
        self.rule, self.state = rule, State(self.strength)
        self.measures_every = checks.positive_int(every, "every")

    def factor(self, now: Moment) -> float:
        """Return the present strength over the initial one."""
        return self.state.strength / self.strength

    def strength_at(self, now: Moment) -> float:
        """Return the present strength."""
        return self.state.strength

    def observe(self, step: int, loss: float, error: float | None = None) -> None:
        """Take one measurement of training loss and error."""
        self.state = decide(self.rule, self.state, step, loss, math.nan if error is None else error)

    @property
    def text(self) -> str:
        """The controller as text, with the options that differ from their defaults."""
        plain = ControlRule(increase=self.rule.increase)
        options = [f"{number_text(self.rule.threshold)}%"] if self.rule.threshold else []
        if self.measures_every != 5:
            options.append(f"every={self.measures_every}")
        options += [
            f"{name}={number_text(getattr(self.rule, name))}"
            for name in ("decay", "cooldown", "ceiling")
            if getattr(self.rule, name) != getattr(plain, name)
        ]
        return ":".join([self.word, ",".join(options)] if options else [self.word])

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as plain numbers."""
        return asdict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.state = State(**state)


class AutoL2(Controller):
    """Controller that starts strong and divides λ by 10 when loss or error stays above its minimum (algorithm 1).

    Args:
        strength: λ to start with.
        threshold: how far it has to be above, in percent of the minimum (method 1, algorithm 2).
        every: steps between two measurements.
        decay: factor by which λ falls.
        cooldown: numerator of the cool-down in steps, cooldown/λ.
    """

    word = "autol2"

    def __init__(
        self,
        strength: float = 0.1,
        *,
        threshold: float = 0.0,
        every: int = 5,
        decay: float = 0.1,
        cooldown: float = 0.1,
    ) -> None:
        super().__init__(strength, ControlRule(decay, threshold, False, cooldown), every)


class AdvanceL2(Controller):
    """`AutoL2` that also multiplies λ by 10 when loss or error stays below its minimum (method 2, algorithm 3).

    Args:
        strength: λ to start with.
        threshold: how far it has to be above or below, in percent of the minimum (method 3, algorithm 4).
        every: steps between two measurements.
        decay: factor by which λ falls, and by whose inverse it rises.
        cooldown: numerator of the cool-down in steps, cooldown/λ.
        ceiling: λ never rises above it.
    """

    word = "advancel2"

    def __init__(
        self,
        strength: float = 0.1,
        *,
        threshold: float = 0.0,
        every: int = 5,
        decay: float = 0.1,
        cooldown: float = 0.1,
        ceiling: float = math.inf,
    ) -> None:
        super().__init__(strength, ControlRule(decay, threshold, True, cooldown, ceiling), every)
