"""Seeing what a `torch.amp.GradScaler` does: by what factor gradients are scaled, and which steps it skips.

An overflowing step never reaches the optimizer's hooks, and the scaler knows nothing of us. So while anything is
recorded, ``GradScaler.scale`` and ``GradScaler.step`` tell the recorders what they are about to do, and then do it.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradscope.recorder.watched import Watched


class Watcher(Protocol):
    """Who wants to know."""

    def scaling(self, scale: Tensor) -> None:
        """A loss is scaled by this factor (one element, on the device)."""

    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        """The scaler is asked to step this optimizer, whose gradients were scaled."""

    def after_scaled_step(self, optimizer: Optimizer) -> None:
        """It has done so, or skipped the step."""


def _scale(self: GradScaler, outputs: Any) -> Any:
    scaled = _SCALERS.own["scale"](self, outputs)
    if self.is_enabled() and self._scale is not None:
        for watcher in _SCALERS.watchers:
            watcher.scaling(self._scale)
    return scaled


def _step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    if not self.is_enabled() or self._scale is None:
        return _SCALERS.own["step"](self, optimizer, *args, **kwargs)
    watchers = list(_SCALERS.watchers)
    for watcher in watchers:
        watcher.before_scaled_step(optimizer, self._scale)
    result = _SCALERS.own["step"](self, optimizer, *args, **kwargs)
    for watcher in watchers:
        watcher.after_scaled_step(optimizer)
    return result


_SCALERS: Watched[Watcher] = Watched(lambda: GradScaler, scale=_scale, step=_step)
watch, unwatch = _SCALERS.watch, _SCALERS.unwatch
