"""Closures among the arguments of an optimizer's step, as its hooks get them: ``args``, the optimizer first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Closure = Callable[[], Any]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def closure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Closure | None:
    """Return the closure among the arguments of a step, None without one."""
    closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
    return closure if callable(closure) else None


def with_closure(args: tuple[Any, ...], kwargs: dict[str, Any], closure: Closure) -> Arguments:
    """Return the arguments of a step with another closure in place of theirs."""
    return ((args[0], closure, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closure})


def followed(closure: Closure, act: Callable[[], None]) -> Closure:
    """Wrap a closure so that ``act()`` runs after its first call, when the gradients are there."""
    acted = False

    def both() -> Any:
        nonlocal acted
        loss = closure()
        if not acted:
            acted = True
            act()
        return loss

    return both
