"""Seeing what a `torch.amp.GradScaler` does: by what factor gradients are scaled, and which steps it skips.

An overflowing step never reaches the optimizer's hooks, and the scaler knows nothing of us. So while anything is
recorded, ``GradScaler.scale`` and ``GradScaler.step`` tell the recorders what they are about to do, and then do it.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer


class Watcher(Protocol):
    """Who wants to know."""

    def scaling(self, scale: Tensor) -> None:
        """A loss is scaled by this factor (one element, on the device)."""

    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        """The scaler is asked to step this optimizer, whose gradients were scaled."""

    def after_scaled_step(self, optimizer: Optimizer) -> None:
        """It has done so, or skipped the step."""


_WATCHERS: list[Watcher] = []
#: Torch's own methods. They stay known when nobody watches, for a loop may have taken one of ours meanwhile.
_OWN: dict[str, Any] = {}


def watch(watcher: Watcher) -> None:
    """Begin to tell ``watcher``."""
    if not _WATCHERS:
        _OWN.update(scale=GradScaler.scale, step=GradScaler.step)
        GradScaler.scale = _scale  # type: ignore[method-assign]
        GradScaler.step = _step  # type: ignore[method-assign]
    _WATCHERS.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Tell it no more; with the last one gone the scaler's methods are torch's own again."""
    if watcher not in _WATCHERS:
        return
    _WATCHERS.remove(watcher)
    if not _WATCHERS:
        GradScaler.scale, GradScaler.step = _OWN["scale"], _OWN["step"]  # type: ignore[method-assign]


def _scale(self: GradScaler, outputs: Any) -> Any:
    scaled = _OWN["scale"](self, outputs)
    if self.is_enabled() and self._scale is not None:
        for watcher in _WATCHERS:
            watcher.scaling(self._scale)
    return scaled


def _step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    if not self.is_enabled() or self._scale is None:
        return _OWN["step"](self, optimizer, *args, **kwargs)
    watchers = list(_WATCHERS)
    for watcher in watchers:
        watcher.before_scaled_step(optimizer, self._scale)
    result = _OWN["step"](self, optimizer, *args, **kwargs)
    for watcher in watchers:
        watcher.after_scaled_step(optimizer)
    return result
