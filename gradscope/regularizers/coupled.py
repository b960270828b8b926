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
    """Stronger while the learning rate is lower, whatever lowers it ("Adapting Regularization with Learning Rate").

    ``Taper(λ, "sch01")``, ``Taper(λ, "sch02")``: the two schemes of its Table 1. ``Taper(λ, 0.5)``, the rule behind
    them: λ·(highest rate/rate)^0.5, at most ``limit``·λ (16 in Table 1). The rate is compared with the highest so
    far: a warm-up is no reason for a strong penalty, and a restart ends the taper.
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
        rate, highest = now.learning_rate, now.highest_rate
        decades = math.log10(highest / rate) if rate > 0 else math.inf
        if isinstance(self.rule, str):
            return _between(SCHEMES[self.rule], decades)
        # 0·∞ is for a power of 0 at a rate of 0: the penalty does not follow the rate then.
        exponent = self.rule * decades if self.rule else 0.0
        return float(min(self.limit, 10**exponent)) if exponent < 300 else self.limit

    @property
    def text(self) -> str:
        if isinstance(self.rule, str):
            return f"taper:{self.rule}"
        return f"taper:{number_text(self.rule)}" + (f":{number_text(self.limit)}" if self.limit != 16 else "")


def _between(factors: tuple[float, ...], decades: float) -> float:
    """The factor at a number of decades; exact on the decades of the table."""
    if decades >= len(factors) - 1:
        return factors[-1]
    nearest = round(decades)
    if math.isclose(decades, nearest, abs_tol=1e-9):
        return factors[max(0, nearest)]
    below = math.floor(decades)
    first, second = (math.log10(f) for f in factors[below : below + 2])
    return float(10 ** (first + (second - first) * (decades - below)))


class Ivanov(Schedule):
    """All of λ while the norm of the penalised weights together is above ``bound``, else nothing.

    As Park et al. tried it (appendix B), the norm is ‖w‖₁; ``norm="l2"`` takes ‖w‖₂.
    """

    def __init__(self, strength: float, bound: float, norm: str = "l1") -> None:
        super().__init__(strength)
        self.bound = checks.strength(bound, "the bound")
        self.needs_norm = checks.one_of(norm, ("l1", "l2"), "the norm of the bound")

    def factor(self, now: Moment) -> float:
        assert self.needs_norm is not None
        return float(now.norms[self.needs_norm] > self.bound)

    @property
    def text(self) -> str:
        return f"ivanov:{number_text(self.bound)}" + (":l2" if self.needs_norm == "l2" else "")
