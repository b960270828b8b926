"""CPR as a schedule: each weight tensor is held below a bound that it sets itself. `cpr.py` applies it."""

from __future__ import annotations

from gradscope import checks
from gradscope.regularizers.schedule import Moment, Schedule


class CPR(Schedule):
    """Constrained parameter regularization (Franke et al., NeurIPS 2024, arXiv 2311.09058), for L2.

    Every penalised tensor gets a bound κ on ‖w‖², and a multiplier that grows while the tensor is above it. κ is the
    tensor's own ‖w‖² after ``warm_start`` steps or, without that, at the inflection point of its growth.

    Args:
        strength: the update rate μ of the multipliers.
        warm_start: steps after which the bounds are set.
        every: steps from one look for the inflection point to the next.
        smooth: factor of the moving average of ‖w‖ in which it is looked for.
    """

    stands = "alone"

    def __init__(
        self, strength: float = 1.0, *, warm_start: int | None = None, every: int = 200, smooth: float = 0.99
    ) -> None:
        super().__init__(strength)
        self.warm_start = checks.optional_count(warm_start, "warm_start")
        self.every = checks.positive_int(every, "every")
        self.smooth = checks.finite(smooth, "smooth")

    def factor(self, now: Moment) -> float:
        """Return 1: the multipliers, not time, decide the strength."""
        return 1.0

    @property
    def text(self) -> str:
        """The schedule as text, ``cpr:500steps`` or ``cpr:inflection``."""
        return f"cpr:{self.warm_start}steps" if self.warm_start is not None else "cpr:inflection"
