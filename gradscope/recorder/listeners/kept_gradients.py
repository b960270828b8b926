"""Detect gradients that are never cleared: every step then uses the sum of all that there have been.

A pass adds to a gradient that lies there, which its version counter tells; clearing makes a new tensor, or writes once
more. An optimizer's gradients may be added to by the passes of others (a GAN), so what counts is whether the chain of
additions from one of its steps to the next was ever broken.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradscope.recorder.listener import Listener
from gradscope.recorder.meter import Meter

#: Steps at the start that are looked at, and how many there have to be.
LOOKED, LEAST = 15, 4


class KeptGradients(Listener):
    """Listener that looks at the first steps of each optimizer."""

    def __init__(self) -> None:
        self._all: list[Chain] = []
        self._chains: dict[Meter, Chain] = {}  # those that are looked at still

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Begin to count for these meters."""
        chains = {meter: Chain(meter) for meter in meters}
        self._all = list(chains.values())
        self._chains = {meter: chain for meter, chain in chains.items() if not chain.over}

    def meter_passed(self, meter: Meter) -> None:
        """Note a pass in the first steps."""
        if meter in self._chains:
            self._chains[meter].passed()

    def after_step(self, meter: Meter, number: int) -> None:
        """Note a step, until enough were seen."""
        if meter in self._chains:
            self._chains[meter].stepped()
            if self._chains[meter].over:
                del self._chains[meter]

    @property
    def never_cleared(self) -> bool:
        """Whether the gradients of an optimizer were never cleared in the first steps."""
        return any(chain.never_cleared for chain in self._all)


class Chain:
    """Counter of the first steps of one optimizer whose gradients hold those of the step before."""

    def __init__(self, meter: Meter) -> None:
        trainable = [w for w in meter.weights if w.requires_grad and not w.is_inference()]
        self._weight: Tensor | None = None if meter.sharded or not trainable else trainable[0]
        self._mark: tuple[int, int] | None = None
        self._passes, self._whole, self._steps = 0, False, 0
        self._kept = 0

    @property
    def never_cleared(self) -> bool:
        """Whether that was so in all of the first steps."""
        return self._kept >= LEAST and self._kept == self._steps - 1

    def passed(self) -> None:
        """Note that a backward pass has ended, outside of a step."""
        state = self._state()
        self._whole = self._whole and self._mark is not None and state == (self._mark[0], self._mark[1] + 1)
        self._mark = state
        self._passes += 1

    def stepped(self) -> None:
        """Note that a step of this optimizer has ended."""
        self._kept += self._whole and self._passes > 0
        self._steps += 1
        self._mark, self._whole, self._passes = self._state(), True, 0

    @property
    def over(self) -> bool:
        """Whether there is nothing more to look at."""
        return self._weight is None or self._steps > LOOKED

    def _state(self) -> tuple[int, int] | None:
        gradient = None if self._weight is None else self._weight.grad
        return None if gradient is None else (id(gradient), gradient._version)
