"""Keep functions out of torch's compiler: those that act at a step count, and work with addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch._compile import _disable_dynamo
from torch.compiler import is_compiling

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def eager(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function outside of torch's compiler, whoever calls it.

    A trace that comes to it is left for the call. Where dynamo follows code that it could not trace, it would try each
    frame on its way, and take what the frame holds for constants; of this one and all below it sees nothing.

    Returns:
        The function, wrapped.
    """
    outside: Callable[P, T] = _disable_dynamo(function)

    @wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> T:
        return outside(*arguments, **named) if is_compiling() else function(*arguments, **named)

    return unseen(called)


def unseen(function: F) -> F:
    """Let dynamo run the frames of a function without tracing them or what they call; costs nothing at a call.

    Into a trace it is inlined all the same. A torch that lacks the means traces it.

    Returns:
        The same function.
    """
    try:
        from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
    except ImportError:
        return function
    set_code_exec_strategy(function.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP))
    return function
