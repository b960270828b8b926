"""Controllers: schedules that are fed with training loss and error ("Improving L2 Regularization based on Auto L2").

`decide` is the four algorithms of that document as one pure function, state and measurement in, state out.
`AutoL2` and `AdvanceL2` hold such a state in a schedule's place.
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
class Rule:
    """What tells the four algorithms apart, and their constants.

    ``decay``: decay_factor, 0.1. ``threshold``: α in percent (methods 1 and 3). ``increase``: λ may rise too
    (methods 2 and 3). ``cooldown``: the numerator of the cool-down in steps, cooldown/λ_new: 0.1 in the
    pseudocode, 10 in the text of the document. ``ceiling``: λ never rises above it (its section 5 suggests one).
    """

    decay: float = 0.1
    threshold: float = 0.0
    increase: bool = False
    cooldown: float = 0.1
    ceiling: float = math.inf


@dataclass(frozen=True)
class State:
    """λ, MIN_STEP, MINLOSS, MINERROR, and LOSS and ERROR of the measurement before."""

    strength: float
    min_step: float = 0.0
    min_loss: float = math.inf
    min_error: float = math.inf
    last_loss: float = math.nan
    last_error: float = math.nan


def decide(rule: Rule, state: State, step: int, loss: float, error: float = math.nan) -> State:
    """One measurement of algorithm 1 (method 1, 2 or 3: algorithms 2, 3, 4) at optimizer step ``step``.

    The first measurement initialises the minima and decides nothing: read literally, algorithm 3 compares with an
    infinite minimum at every measurement and multiplies λ for ever. A loss that is not finite counts as infinite.
    Without an error (NaN) the loss decides alone.
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
    """The smaller one; NaN stands for nothing measured yet."""
    return second if math.isnan(first) else first if math.isnan(second) else min(first, second)


def _changed(rule: Rule, state: State, step: int, strength: float) -> State:
    # Beyond the range of floats the strength stays where it is; at 0 the cool-down would never end anyway.
    if not math.isfinite(strength) or strength == 0:
        return state
    return replace(state, strength=strength, min_step=rule.cooldown / strength + step)


class Controller(Schedule):
    """A schedule whose strength follows from what it is told of the training."""

    word: str
    stands = "first"

    def __init__(self, strength: float, rule: Rule, every: int) -> None:
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
        return self.state.strength / self.strength

    def strength_at(self, now: Moment) -> float:
        return self.state.strength

    def observe(self, step: int, loss: float, error: float | None = None) -> None:
        self.state = decide(self.rule, self.state, step, loss, math.nan if error is None else error)

    @property
    def text(self) -> str:
        plain = Rule(increase=self.rule.increase)
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
        return asdict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = State(**state)


class AutoL2(Controller):
    """Start strong, and divide λ by 10 when loss or error stays above its minimum (algorithm 1).

    ``threshold``: only when it exceeds the minimum by so many percent (method 1, algorithm 2).
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
        super().__init__(strength, Rule(decay, threshold, False, cooldown), every)


class AdvanceL2(Controller):
    """As `AutoL2`, and λ is multiplied by 10 when loss or error stays below its minimum (method 2, algorithm 3).

    With a ``threshold`` in percent it is method 3 (algorithm 4).
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
        super().__init__(strength, Rule(decay, threshold, True, cooldown, ceiling), every)
