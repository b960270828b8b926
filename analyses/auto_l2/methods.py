"""What is compared: fixed strengths, Auto L2, methods 1 to 3, and two controls of ours."""

from __future__ import annotations

from collections.abc import Callable

import gradscope
from gradscope.regularizers.controllers import Controller

#: Batch norm at small scale, four times as many epochs.
LONG = "batch-norm-long"
#: Without and with batch normalisation: its Figures 1 to 4 show both. The last: four times as long.
PARTS = ("plain", "batch-norm", LONG)
#: What every method starts from where it moves its strength, k = 5 and decay_factor = 0.1 being the defaults.
START = 0.1


class WithinEpoch(gradscope.AutoL2):
    """Auto L2 as the published code counts: t is the step within its epoch, and starts anew with each one.

    A cool-down that is longer than an epoch never ends then: the strength stands still for the rest of the training.
    """

    def __init__(self, steps_per_epoch: int, *, threshold: float = 0.0) -> None:
        super().__init__(START, threshold=threshold)
        self.steps_per_epoch = steps_per_epoch

    def observe(self, step: int, loss: float, error: float | None = None) -> None:
        super().observe(step % self.steps_per_epoch, loss, error)


class AdvanceWithinEpoch(gradscope.AdvanceL2):
    """Advance L2, its steps counted within the epoch."""

    def __init__(self, steps_per_epoch: int, *, threshold: float = 0.0) -> None:
        super().__init__(START, threshold=threshold)
        self.steps_per_epoch = steps_per_epoch

    def observe(self, step: int, loss: float, error: float | None = None) -> None:
        super().observe(step % self.steps_per_epoch, loss, error)


#: Strengths that stay as they are: the document's three, and none.
FIXED = {"none": 0.0, "1e-5": 1e-5, "1e-4": 1e-4, "5e-4": 5e-4}
#: The highest strength of its own runs with batch norm; its section 5 suggests a bound, and it tries none.
CEILING = 10.0
#: From the steps of an epoch to a controller; the last two are Advance L2 with that bound.
MOVING: dict[str, Callable[[int], Controller]] = {
    "Auto L2": lambda steps: gradscope.AutoL2(START),
    "method 1, 5 %": lambda steps: gradscope.AutoL2(START, threshold=5),
    "method 1, 10 %": lambda steps: gradscope.AutoL2(START, threshold=10),
    "method 2, Advance L2": lambda steps: gradscope.AdvanceL2(START),
    "method 3, 5 %": lambda steps: gradscope.AdvanceL2(START, threshold=5),
    "method 2, λ ≤ 10": lambda steps: gradscope.AdvanceL2(START, ceiling=CEILING),
    "method 3, 5 %, λ ≤ 10": lambda steps: gradscope.AdvanceL2(START, threshold=5, ceiling=CEILING),
}
#: Not in the document. The last one starts every weight at a tenth, and has the fixed strength that Auto L2 comes to.
CONTROLS = ("Auto L2, within the epoch", "Advance L2, within the epoch", "1e-4, small start")
SMALL = 0.1
ALL = (*FIXED, *MOVING, *CONTROLS)


def schedule_of(method: str, steps_per_epoch: int) -> gradscope.Schedule | None:
    """What moves, or holds, the strength; None without a penalty."""
    if method in MOVING:
        return MOVING[method](steps_per_epoch)
    if method == CONTROLS[0]:
        return WithinEpoch(steps_per_epoch)
    if method == CONTROLS[1]:
        return AdvanceWithinEpoch(steps_per_epoch)
    strength = FIXED[method.split(",")[0]]
    return gradscope.Constant(strength) if strength else None
