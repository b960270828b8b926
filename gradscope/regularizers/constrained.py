"""CPR as a schedule: each weight tensor held below a bound that it sets itself. `cpr.py` applies it."""

from __future__ import annotations

from gradscope import checks
from gradscope.regularizers.schedule import Moment, Schedule


class CPR(Schedule):
    """Constrained parameter regularization (Franke et al., NeurIPS 2024, arXiv 2311.09058), for L2.

    Every penalised tensor gets a bound κ on ‖w‖², and a multiplier that grows while the tensor is above it. κ is the
    tensor's own ‖w‖² after ``warm_start`` steps or, without that, at the inflection point of its growth, looked
    for every ``every`` steps in a moving average with factor ``smooth``. ``strength`` is the update rate μ.
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
        return 1.0

    @property
    def text(self) -> str:
        return f"cpr:{self.warm_start}steps" if self.warm_start is not None else "cpr:inflection"
