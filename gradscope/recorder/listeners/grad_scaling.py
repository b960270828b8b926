"""Automatic mixed precision: by what factor gradients are scaled, and which steps a `torch.amp.GradScaler` skips.

An overflowing step never reaches the optimizer's hooks, and the scaler knows nothing of us. So while anything is
recorded, ``GradScaler.scale`` and ``GradScaler.step`` tell the listeners what they are about to do, and then do it.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradscope.optimizers.wrapped import inside
from gradscope.recorder.listener import Listener, Steps
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.torch_utils.patching import MethodPatch


class GradScaling(Listener):
    """Knows the factors of gradients, and tells ``steps`` of those that were skipped.

    ``optimizers``: the recorded ones, by identity.

    Attributes:
        scale: the factor of the latest loss (one element, on the device), None without a GradScaler.
        factors: by optimizer, until its step is observed: what its gradients carry, or carried when the pass ended.
    """

    def __init__(self, optimizers: Container[int], buffer: RowBuffer, steps: Steps) -> None:
        self._optimizers, self._buffer, self._steps = optimizers, buffer, steps
        self.scale: Tensor | None = None
        self.factors: dict[int, Tensor] = {}

    def attach(self) -> None:
        SCALERS.add(self)

    def detach(self) -> None:
        SCALERS.remove(self)

    def step_observed(self, optimizer: Optimizer) -> None:
        self.factors.pop(id(optimizer), None)

    # -- what a scaler tells ----------------------------------------------------------------------

    def scaling(self, scale: Tensor) -> None:
        """A loss is scaled by this factor."""
        self.scale = scale

    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        """The scaler is asked to step this optimizer, whose gradients were scaled."""
        for one in self._recorded(optimizer):
            self.factors[id(one)] = scale.detach().clone()

    def after_scaled_step(self, optimizer: Optimizer) -> None:
        """If the optimizer was not called, the step was skipped: an attempted step, and a row, all the same."""
        for one in self._recorded(optimizer):
            if id(one) in self.factors and not self._buffer.stopped:
                self._steps.observe(one, skipped=True)
                self._steps.events.step_seen(one)
                self._steps.events.step_skipped(one)

    def _recorded(self, optimizer: Optimizer) -> list[Optimizer]:
        """Which of the recorded optimizers this is, or wraps."""
        if id(optimizer) in self._optimizers:
            return [optimizer]
        return [o for o in inside(optimizer) if id(o) in self._optimizers]


def _scale(self: GradScaler, outputs: Any) -> Any:
    scaled = SCALERS.originals["scale"](self, outputs)
    if self.is_enabled() and self._scale is not None:
        for listener in SCALERS.observers:
            listener.scaling(self._scale)
    return scaled


def _step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    if not self.is_enabled() or self._scale is None:
        return SCALERS.originals["step"](self, optimizer, *args, **kwargs)
    listeners = list(SCALERS.observers)
    for listener in listeners:
        listener.before_scaled_step(optimizer, self._scale)
    result = SCALERS.originals["step"](self, optimizer, *args, **kwargs)
    for listener in listeners:
        listener.after_scaled_step(optimizer)
    return result


SCALERS: MethodPatch[GradScaling] = MethodPatch(lambda: GradScaler, scale=_scale, step=_step)
