"""Base of what observes a training and adds to its rows (`Listener`), and what it asks of the recorder (`Steps`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from gradscope.recorder.captured import Captured
from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, HostRow
from gradscope.recorder.meter import Meter

#: Called with a meter, the number of a row, and further arguments.
Guarded = Callable[..., None]


class Listener:
    """One kind of quantity: its state, its fields in a ring row, its variables in the record.

    A listener overrides what it needs. What it leaves as it stands here is never called: `heard` picks the methods that
    are overridden, and `Events` binds them once a layout. The events, in the order of a step:

        pass_ended(task)                    # a backward pass has; then, for each optimizer that it reached,
        meter_passed(meter)                 #   outside of a step of it
        measure(meter, number)              #   into the row of the step to come
        measured(meter, gradients, number)  #   ... what its gradients were
        passes_measured()                   #   all of them
        step_opens()                        # an optimizer is about to step, and nothing is decided yet
        row_opens()                         # its step begins a row, recorded or not
        row_begins(row)                     # ... a recorded one: what was gathered goes into it
        row_begun()                         # what comes from now on belongs to a later row
        row_joined()                        # the step has its row: that which it has begun, or another's
        before_step(meter, number, row, skipped)  # for each device that the optimizer's parameters lie on
        step_observed(optimizer)            # all of them
        closure_again()                     # the step has called its closure more than once
        step_seen(optimizer)                # it has stepped, or the step was skipped
        step_skipped(optimizer)             # a GradScaler has skipped it
        after_step(meter, number)           # it has stepped
    """

    # -- the layout: what there is to measure -----------------------------------------------------

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Prepare for these meters; called again where penalties or an optimizer's parameters change."""

    def fields(self) -> dict[str, Field]:
        """Return what a row holds for it on the first device."""
        return {}

    def meter_fields(self, meter: Meter) -> dict[str, Field]:
        """Return what a row holds for it of each meter, on the meter's device."""
        return {}

    def attach(self) -> None:
        """Begin to observe, where that needs hooks."""

    def detach(self) -> None:
        """Remove the hooks."""

    # -- the record -------------------------------------------------------------------------------

    def variables(self, rows: FetchedRows) -> Block:
        """Compute what the store gets for these rows, [n, …] a variable. Called in the flusher's thread."""
        return {}

    def capture(self) -> dict[str, Any]:
        """Return for the record's ``capture`` what was not seen, and why."""
        return {}

    # -- events -----------------------------------------------------------------------------------

    def pass_ended(self, task: int) -> None:
        """React to the end of a backward pass that adds to gradients; ``task``: its number in the engine."""

    def meter_passed(self, meter: Meter) -> None:
        """React to a pass that has reached this meter's gradients, outside of a step."""

    def measure(self, meter: Meter, number: int) -> None:
        """Measure what the pass has left, into row ``number``: of the step to come."""

    def measured(self, meter: Meter, gradients: Sequence[Tensor | None], number: int) -> None:
        """Take the meter's gradients, without what a declared penalty adds; they are measured into row ``number``."""

    def passes_measured(self) -> None:
        """React when all that a pass has reached has been measured."""

    def step_opens(self) -> None:
        """Decide what waited for a step: one begins."""

    def row_opens(self) -> None:
        """React to a step that begins a row of its own, which is recorded or not."""

    def row_begins(self, row: HostRow) -> None:
        """Write what belongs to a recorded row that begins. ``row.number``: its place in the ring."""

    def row_repeated(self, row: HostRow) -> None:
        """Take a row that a replayed CUDA graph begins, ``row`` being a copy of the captured one."""

    def row_begun(self) -> None:
        """Start afresh: what comes now belongs to a later row. Not called in a replay, which still takes the rest."""

    def row_joined(self) -> None:
        """Add what was kept for the step, which has a row now, recorded or not."""

    def before_step(self, meter: Meter, number: int, row: HostRow | None, skipped: bool) -> None:
        """Measure what an optimizer that is about to step finds.

        Args:
            meter: of its parameters on one device.
            number: of its row, or else of the latest one that was begun.
            row: None if it is not recorded.
            skipped: a GradScaler skips the step.
        """

    def step_observed(self, optimizer: Optimizer) -> None:
        """React when every listener has had its look before the step."""

    def closure_again(self) -> None:
        """Discard what was gathered: a closure was called again, and its later forwards and logs belong to no row."""

    def step_seen(self, optimizer: Optimizer) -> None:
        """React to an optimizer that has stepped, or whose step was skipped, or repeated by a graph."""

    def step_skipped(self, optimizer: Optimizer) -> None:
        """React to a step that a GradScaler has skipped, which was observed and seen like any other."""

    def after_step(self, meter: Meter, number: int) -> None:
        """Measure what a step has done; ``number``: of the latest row that was begun."""


class Steps(Protocol):
    """What listeners ask of the recorder that see steps in other ways than by an optimizer's hooks."""

    events: Events

    def observe(self, optimizer: Optimizer, skipped: bool = False) -> None:
        """Observe a step that is about to be taken, or was skipped."""

    def begin_row(self, captured: Captured) -> None:
        """Begin a row for a CUDA graph that is about to be replayed."""

    def log(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Log what the loop has given."""


def heard(listeners: Iterable[Listener], event: str) -> list[Callable[..., Any]]:
    """Return the bound methods of those that override ``event``, in order."""
    ours = getattr(Listener, event)
    return [getattr(one, event) for one in listeners if getattr(type(one), event) is not ours]


def together(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """Make one call of all methods; a single method is called as it is."""
    if len(methods) == 1:
        return methods[0]

    def call(*arguments: Any) -> None:
        for method in methods:
            method(*arguments)

    return call


class Events:
    """Events of `Listener`, bound once to those that override them. Each is called with the event's arguments.

    Args:
        listeners: in order.
        guard: makes one call of several methods of which each may fail by itself; see `Unread.guarded`.
    """

    def __init__(
        self, listeners: Sequence[Listener], guard: Callable[[Sequence[Callable[..., None]]], Guarded]
    ) -> None:
        def bound(event: str) -> Callable[..., None]:
            return together(heard(listeners, event))

        self.pass_ended, self.meter_passed = bound("pass_ended"), bound("meter_passed")
        self.passes_measured, self.step_opens = bound("passes_measured"), bound("step_opens")
        self.row_opens, self.row_begins, self.row_begun = bound("row_opens"), bound("row_begins"), bound("row_begun")
        self.row_repeated, self.row_joined = bound("row_repeated"), bound("row_joined")
        self.step_observed, self.closure_again = bound("step_observed"), bound("closure_again")
        self.step_seen, self.step_skipped = bound("step_seen"), bound("step_skipped")
        self.measure, self.before_step = guard(heard(listeners, "measure")), guard(heard(listeners, "before_step"))
        self.after_step = guard(heard(listeners, "after_step"))
