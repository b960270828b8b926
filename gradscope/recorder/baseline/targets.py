"""Watch torch's loss functions while a recording is open: the targets that they are given, and the losses they return.

Every form of a loss (a module, a function, imported under another name) ends in one function of torch's C++ side; a
stand-in wraps these for as long as a recording is open, and looks at some steps only. It adds to sums on the device and
never waits for them (`Sums`); a thread in the background reads them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.jit._builtins as builtins
from torch import Tensor

from gradscope.recorder.baseline.target_sums import Sums, sums_for

#: Where torch's own code looks the functions up, and the kind of loss each is.
_PLACES: dict[str, tuple[Any, str]] = {
    "cross_entropy_loss": (torch._C._nn, "cross_entropy"),
    "nll_loss_nd": (torch._C._nn, "nll_loss"),
    "binary_cross_entropy": (torch._C._nn, "binary_cross_entropy"),
    "binary_cross_entropy_with_logits": (torch, "binary_cross_entropy_with_logits"),
    "mse_loss": (torch._C._nn, "mse_loss"),
    "l1_loss": (torch._C._nn, "l1_loss"),
    "smooth_l1_loss": (torch._C._nn, "smooth_l1_loss"),
    "huber_loss": (torch._C._nn, "huber_loss"),
}

_listeners: list[TargetWatch] = []
_stand_ins: dict[str, tuple[Any, Any]] = {}  # name: what stands there now, what stood there before
_lock = threading.Lock()

#: Steps at the start that are all looked at; later one in every sixty-fourth part of the steps so far.
FIRST = 64


@cache
def _in_front_of(name: str, kind: str, function: Any) -> Callable[..., Any]:
    """Wrap a loss function, once: TorchScript knows it by its ``id``, which a new function would not have."""

    def stand_in(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        if not torch.compiler.is_compiling():
            for listener in _listeners:
                listener.see(kind, arguments, named, result)
        return result

    stand_in.__name__ = stand_in.__qualname__ = name
    stand_in.__doc__ = function.__doc__
    with contextlib.suppress(Exception):  # so that TorchScript knows what it is
        builtins._register_builtin(stand_in, builtins._find_builtin(function))
    return stand_in


def _listen(listener: TargetWatch) -> None:
    with _lock:
        _listeners.append(listener)
        if len(_listeners) > 1:
            return
        for name, (place, kind) in _PLACES.items():
            function = getattr(place, name, None)
            if function is None:
                continue
            stand_in = _in_front_of(name, kind, function)
            _stand_ins[name] = stand_in, function
            setattr(place, name, stand_in)


def _stop_listening(listener: TargetWatch) -> None:
    with _lock:
        if listener not in _listeners:
            return
        _listeners.remove(listener)
        if _listeners:
            return
        for name, (stand_in, function) in _stand_ins.items():
            place, _ = _PLACES[name]
            if getattr(place, name) is stand_in:  # else somebody stands in front of it, who calls it on
                setattr(place, name, function)
        _stand_ins.clear()


class TargetWatch:
    """Targets of one recording.

    Attributes:
        problem: why it has stopped to look, empty as long as it does.
    """

    def __init__(self, step: Callable[[], int]) -> None:
        self._step = step
        self._sums: dict[tuple[Any, ...], Sums] = {}
        self._current, self._next = -1, 0  # the step that is looked at, the next one that will be
        self._busy = threading.Lock()
        self.problem = ""
        _listen(self)

    def detach(self) -> None:
        """Stop looking."""
        _stop_listening(self)

    def see(self, kind: str, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        """Note a call of a loss function; whatever goes wrong here does not reach the training."""
        if self.problem or not isinstance(result, Tensor) or not result.requires_grad or not torch.is_grad_enabled():
            return
        try:
            step = self._step()
            if (step < self._next and step != self._current) or not _plain(arguments[:2], result):
                return
            with self._busy, torch.no_grad():
                self._add(step, kind, arguments, named, result)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]

    def _add(self, step: int, kind: str, arguments: tuple[Any, ...], named: dict[str, Any], result: Tensor) -> None:
        if step != self._current:
            self._current, self._next = step, step + max(1, step // FIRST)
        found = sums_for(kind, arguments, named)
        if found is None:
            return
        key, make = found
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = make()
        sums.add(step, arguments, named, result)

    def before(self, border: int) -> list[Sums]:
        """Return the sums of the steps before ``border``, one for each loss function and kind of target.

        Asked in the background with growing borders, when all those steps are over: so a seeded run is judged the same
        way every time.

        Returns:
            Sums with at least one call.
        """
        with self._busy:
            found = list(self._sums.values())
        for sums in found:
            sums.digest(border)
        return [sums for sums in found if sums.calls]


def _plain(inputs: tuple[Any, ...], result: Tensor) -> bool:
    """Return whether these are ordinary tensors in an ordinary call: not traced, transformed, captured or counted."""
    if torch._C._functorch.maybe_current_level() is not None or torch._C._len_torch_dispatch_stack():
        return False
    if result.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta for t in (*inputs, result))
