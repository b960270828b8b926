"""Record automatic mixed precision: the factor of the gradients, and the steps that a `torch.amp.GradScaler` skips.

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
    """Listener of the factors of gradients, which tells ``steps`` of steps that were skipped.

    Args:
        optimizers: the recorded ones, by identity.
        buffer: the rows.
        steps: the recorder.

    Attributes:
        scale: the factor of the latest loss (one element, on the device), None without a GradScaler.
        factors: by optimizer, until its step is observed: what its gradients carry, or carried when the pass ended.
    """

    def __init__(self, optimizers: Container[int], buffer: RowBuffer, steps: Steps) -> None:
        self._optimizers, self._buffer, self._steps = optimizers, buffer, steps
        self.scale: Tensor | None = None
        self.factors: dict[int, Tensor] = {}

    def attach(self) -> None:
        """Observe GradScalers."""
        SCALERS.add(self)

    def detach(self) -> None:
        """Stop observing."""
        SCALERS.remove(self)

    def step_observed(self, optimizer: Optimizer) -> None:
        """Forget the factor of this optimizer's gradients."""
        self.factors.pop(id(optimizer), None)

    # -- what a scaler tells ----------------------------------------------------------------------

    def scaling(self, scale: Tensor) -> None:
        """Note the factor by which a loss is scaled."""
        self.scale = scale

    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        """Note the factor of the gradients of an optimizer that the scaler is asked to step."""
        for one in self._recorded(optimizer):
            self.factors[id(one)] = scale.detach().clone()

    def after_scaled_step(self, optimizer: Optimizer) -> None:
        """Record a skipped step where the optimizer was not called: an attempted step, and a row, all the same."""
        for one in self._recorded(optimizer):
            if id(one) in self.factors and not self._buffer.stopped:
                self._steps.observe(one, skipped=True)
                self._steps.events.step_seen(one)
                self._steps.events.step_skipped(one)

    def _recorded(self, optimizer: Optimizer) -> list[Optimizer]:
        """Return which of the recorded optimizers this is, or wraps."""
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
