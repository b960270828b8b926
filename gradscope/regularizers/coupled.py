"""Schedules that follow what the run does: its learning rate, or the size of its weights."""

from __future__ import annotations

import math

from gradscope import checks
from gradscope.regularizers.schedule import Moment, Schedule, number_text
from gradscope.types import InputError

#: Factors by how many decades the learning rate has fallen: Table 1 of "Adapting Regularization with Learning Rate",
#: there as weight decay over 0.0001. Between the decades, a straight line on logarithmic axes.
SCHEMES = {"sch01": (1.0, 1.0, 8.0, 16.0, 16.0), "sch02": (1.0, 1.0, 4.0, 8.0, 8.0)}


class Taper(Schedule):
    """Schedule that is stronger while the learning rate is lower ("Adapting Regularization with Learning Rate").

    The rate is compared with the highest so far: a warm-up is no reason for a strong penalty, and a restart ends the
    taper.

    Args:
        strength: λ at the highest rate.
        rule: ``"sch01"`` or ``"sch02"``, the schemes of Table 1; or a power q, the rule behind them: λ·(highest
            rate/rate)^q.
        limit: the largest factor of a power (16 in Table 1).
    """

    needs_rate = True

    def __init__(self, strength: float, rule: str | float, limit: float = 16.0) -> None:
        super().__init__(strength)
        if isinstance(rule, str) and rule not in SCHEMES:
            raise InputError(f"the taper is {rule!r}; expected sch01, sch02 or a power such as 0.5")
        self.rule = rule if isinstance(rule, str) else checks.strength(rule, "the power of the taper")
        self.limit = checks.strength(limit, "the limit of the taper")
        if self.limit < 1:
            raise InputError(f"the limit of the taper is {limit:g}; expected at least 1")

    def factor(self, now: Moment) -> float:
        """Return the factor at this learning rate."""
        rate, highest = now.learning_rate, now.highest_rate
        decades = math.log10(highest / rate) if rate > 0 else math.inf
        if isinstance(self.rule, str):
            return _between(SCHEMES[self.rule], decades)
        # 0·∞ is for a power of 0 at a rate of 0: the penalty does not follow the rate then.
        exponent = self.rule * decades if self.rule else 0.0
        return float(min(self.limit, 10**exponent)) if exponent < 300 else self.limit

    @property
    def text(self) -> str:
        """The schedule as text, such as ``taper:sch01`` or ``taper:0.5``."""
        if isinstance(self.rule, str):
            return f"taper:{self.rule}"
        return f"taper:{number_text(self.rule)}" + (f":{number_text(self.limit)}" if self.limit != 16 else "")


def _between(factors: tuple[float, ...], decades: float) -> float:
    """Interpolate the factors at a number of decades, logarithmically; exact on the decades of the table."""
    if decades >= len(factors) - 1:
        return factors[-1]
    nearest = round(decades)
    if math.isclose(decades, nearest, abs_tol=1e-9):
        return factors[max(0, nearest)]
    below = math.floor(decades)
    first, second = (math.log10(f) for f in factors[below : below + 2])
    return float(10 ** (first + (second - first) * (decades - below)))


class Ivanov(Schedule):
    """Schedule that applies all of λ while the norm of the penalised weights together is above a bound, else nothing.

    Args:
        strength: λ above the bound.
        bound: the norm that is allowed.
        norm: ``"l1"`` for ‖w‖₁, as in Park et al. (appendix B), or ``"l2"`` for ‖w‖₂.
    """

    def __init__(self, strength: float, bound: float, norm: str = "l1") -> None:
        super().__init__(strength)
        self.bound = checks.strength(bound, "the bound")
        self.needs_norm = checks.one_of(norm, ("l1", "l2"), "the norm of the bound")

    def factor(self, now: Moment) -> float:
        """Return 1 above the bound, 0 at it and below."""
        assert self.needs_norm is not None
        return float(now.norms[self.needs_norm] > self.bound)

    @property
    def text(self) -> str:
        """The schedule as text, such as ``ivanov:300`` or ``ivanov:20:l2``."""
        return f"ivanov:{number_text(self.bound)}" + (":l2" if self.needs_norm == "l2" else "")
