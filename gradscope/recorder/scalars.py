"""Scalars that `Recording.log` is given: numbers of the host, and tensors that stay on their device until fetched."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from gradscope import checks
from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import HostRow
from gradscope.recorder.ring import FIXED, Ring
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.torch_utils.module_hooks import Hook
from gradscope.types import InputError

#: Logged tensors that one row of the ring has room for; more get rings of their own.
WIDTH = 8
#: Each rank logs what it has seen of its own.
CELLS = Field((WIDTH,), "mean")


class Scalars:
    """Places for logged tensors in the rows of a buffer, whose first ring has a field ``cells``.

    Args:
        buffer: the rows.
        averaged: numbers of the host go there too, for they are averaged over ranks with the rest of the ring.
    """

    def __init__(self, buffer: RowBuffer, averaged: bool) -> None:
        self._buffer, self._averaged = buffer, averaged
        self._places: dict[str, tuple[Ring, str, int]] = {}

    def put(self, row: HostRow, name: str, value: Tensor | float) -> None:
        """Join a value to a row that is open; a tensor on an accelerator is copied there, and nothing waits."""
        if not isinstance(value, Tensor) or (value.is_cpu and not self._averaged):
            row.values[name] = scalar(name, value)
            row.cells.pop(name, None)
            return
        if value.numel() != 1 or value.is_meta:
            raise no_scalar(name, value)
        if name not in self._places:
            if row.number == FIXED and len(self._places) >= WIDTH * (1 + len(self._buffer.extra)):
                text = f"log({name}=…) inside a CUDA graph: log it once before the capture"
                warnings.warn(text, stacklevel=checks.users_line())
                return
            self._places[name] = self._next_place()
        ring, field, place = self._places[name]
        ring.mark()
        ring.view(field, row.number)[place : place + 1].copy_(value.detach().reshape(1))
        row.cells[name] = field, place
        row.values.pop(name, None)

    def _next_place(self) -> tuple[Ring, str, int]:
        chunk, place = divmod(len(self._places), WIDTH)
        if not chunk:
            return self._buffer.home, "cells", place
        field, extra = f"cells{chunk}", self._buffer.extra
        if chunk > len(extra):
            extra.append(Ring(self._buffer.home.device, {field: CELLS}))
        return extra[chunk - 1], field, place

    def kept(self, name: str, value: Tensor | float) -> Tensor | float:
        """Copy a value as it is now: the loop may change its tensor in place before the row begins."""
        if not isinstance(value, Tensor) or (value.is_cpu and not self._averaged):
            return scalar(name, value)
        if value.numel() != 1 or value.is_meta:
            raise no_scalar(name, value)
        return value.detach().clone()

    def repeated(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the cells of the fixed row, by name: what a replayed graph has logged again."""
        places = ((name, *self._places[name]) for name in names)
        return {name: ring.view(field, FIXED)[place] for name, ring, field, place in places}


class Said:
    """What one call of `log` was given, between a step and the next: of which of the two is not known yet.

    A loop may log its loss after the step, or before the backward pass. A pass that reaches a logged tensor later tells
    (`reached`); otherwise forwards do.

    Args:
        scalars: what was logged.
        places: of logged tensors.
        forwards: the model's so far.
        after_forward: there was one since the step.
    """

    def __init__(
        self, scalars: Mapping[str, Tensor | float], places: Scalars, forwards: int, after_forward: bool
    ) -> None:
        self.values = {name: places.kept(name, value) for name, value in scalars.items()}
        self.reached = False
        self._forwards, self._after_forward = forwards, after_forward
        self._sure = False
        for value in scalars.values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                value.register_hook(Hook(self._see_pass))
                self._sure = True

    def _see_pass(self, gradient: Tensor) -> None:
        self.reached = True

    def belongs_to_the_coming(self, forwards: int) -> bool:
        """Return whether it was logged before the backward pass of the coming step. ``forwards``: those so far."""
        return self.reached or (not self._sure and self._after_forward and forwards == self._forwards)


def has_graph(value: Any) -> bool:
    """Return whether a backward pass may come through this value."""
    return isinstance(value, Tensor) and value.grad_fn is not None


def scalar(name: str, value: Any, call: str = "log") -> float:
    """Convert to a number of the host; a tensor in its memory is read where it lies, which nothing has to wait for."""
    try:
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.is_meta:
                raise no_scalar(name, value, call)
            value = value.tolist() if not value.ndim else value.reshape(()).tolist()
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"a {type(value).__name__}"
        raise InputError(f"{call}({name}=…) got {shown}; expected a number or a tensor with one") from None


def no_scalar(name: str, value: Tensor, call: str = "log") -> InputError:
    """Return the complaint about a tensor that is not one number."""
    if value.is_meta:
        return InputError(f"{call}({name}=…) got a tensor on the device meta, which holds no number")
    return InputError(f"{call}({name}=…) got a tensor of shape {list(value.shape)}; expected one number")
