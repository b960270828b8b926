"""The recorder's hook before a step: behind the hooks of the script, before those that act for a penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from gradscope.torch_utils.module_hooks import EagerHook

#: What `StepHook.unseen` means, for the record.
UNSEEN = (
    "hooks of the script act at step() behind a penalty's, where its gradient has joined the loss's: what they do to "
    "gradients, learning rates and decays is not in the record; register them before the penalty"
)


class StepHook:
    """Hook that sees what the script's own hooks have made of gradients and groups, and no penalty in them yet.

    Args:
        optimizer: whose steps.
        act: called as any pre-hook of a step.

    Attributes:
        unseen: hooks of the script stand behind a penalty's, where they stay: the order of others is never changed.
    """

    def __init__(self, optimizer: Optimizer, act: Callable[..., Any]) -> None:
        self._optimizer = optimizer
        self._handle = optimizer.register_step_pre_hook(EagerHook(act))
        self._known: tuple[int, int] | None = None
        self.unseen = False
        self.place()

    def place(self) -> None:
        """Take its place again where hooks have come since; not while those of a step are called."""
        hooks: Any = self._optimizer._optimizer_step_pre_hooks
        if (len(hooks), next(reversed(hooks), -1)) == self._known or self._handle.id not in hooks:
            return
        others = [(number, hook) for number, hook in hooks.items() if number != self._handle.id]
        acting = [_acts(hook) for _, hook in others]
        behind = others[acting.index(True) :] if True in acting else []
        self.unseen |= any(not _acts(hook) and not isinstance(hook, EagerHook) for _, hook in behind)
        for number in (self._handle.id, *(number for number, _ in behind)):
            hooks.move_to_end(number)
        self._known = (len(hooks), next(reversed(hooks)))

    def remove(self) -> None:
        """Remove it."""
        self._handle.remove()


def _acts(hook: Any) -> bool:
    return bool(getattr(getattr(hook, "__self__", None), "acts_at_steps", False))
