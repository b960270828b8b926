"""The instrument on a training loop: hooks that say where the loop stands, and the listeners that make rows of it.

    for x, y in loader:
        loss = criterion(model(x), y)      # forward hooks: activations of the coming row
        optimizer.zero_grad()
        loss.backward()                    # its end: gradients and weights into the coming row (`Meter`)
        optimizer.step()                   # pre-hook: the row begins; what changed since, λ, learning rate
        run.log(loss=loss)                 # joins that row

A row stays open until the next one begins, so that `log` can still reach it. Kernels write rows where they
stand, in rings on the devices; a background thread fetches them in bulk and hands blocks to their consumers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.parameter_groups import Groups
from gradscope.recorder.backward_passes import BackwardPasses
from gradscope.recorder.cadence import Cadence
from gradscope.recorder.captured import Captured
from gradscope.recorder.consumer import RowConsumer
from gradscope.recorder.distributed import Ranks
from gradscope.recorder.host_rows import HostRow
from gradscope.recorder.listeners.activations import Activations
from gradscope.recorder.listeners.forwards import Forwards
from gradscope.recorder.listeners.registry import Listeners
from gradscope.recorder.memory import no_grad
from gradscope.recorder.penalty_probe import PenaltyProbe
from gradscope.recorder.presets import Preset
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.step_hook import UNSEEN, StepHook
from gradscope.recorder.timeline import Timeline
from gradscope.torch_utils.closures import closure_of, followed, with_closure
from gradscope.torch_utils.module_hooks import EagerHook
from gradscope.torch_utils.one_step import OneStep


class Recorder:
    """Hooks on one model's optimizers; they call listeners, and blocks of rows go to ``consumers``.

    Nothing happens before `attach`.

    Args:
        optimizers: the recorded ones.
        parameters: by plain name.
        probe: what penalties do.
        consumers: of finished rows, in their order; more may be added before the first step.
        preset: what is recorded.
        cadences: when, by kind.
        activations: hooks on modules, None for none.
        forwards: detects forwards of the model.
        warn: told what the user should be told.
        steps_missed: told why a training goes on of which no step is seen.
        groups: the optimizers' parameter groups.
        ranks: processes of the training.

    Attributes:
        timeline: which step and which row it is.
        buffer: the rows that wait for the consumers.
        listeners: what is recorded.
        events: bound to the listeners for the present layout.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        parameters: Mapping[str, Tensor],
        probe: PenaltyProbe,
        consumers: Sequence[RowConsumer],
        *,
        preset: Preset,
        cadences: Mapping[str, Cadence],
        activations: Activations | None = None,
        forwards: Forwards,
        warn: Callable[[str], None] = lambda text: None,
        steps_missed: Callable[[str], None] = lambda text: None,
        groups: Groups,
        ranks: Ranks,
    ) -> None:
        self.buffer = RowBuffer(ranks, consumers)
        self.timeline = Timeline(cadences, self.buffer)
        self._passes = BackwardPasses(self.timeline, ranks.size > 1, self._pass_ended)
        self._optimizers = list(optimizers)
        self._once = {id(o): OneStep() for o in optimizers}
        self._before: dict[int, StepHook] = {}  # by optimizer
        self._hooks: list[Any] = []
        self._start = time.perf_counter()
        self.listeners = Listeners(
            self,
            self.timeline,
            self.buffer,
            self._passes,
            optimizers=self._optimizers,
            parameters=parameters,
            groups=groups,
            preset=preset,
            activations=activations,
            forwards=forwards,
            warn=warn,
            steps_missed=steps_missed,
        )
        self._graphs, self._gradients = self.listeners.graphs, self.listeners.gradients
        self._lay_out(probe)

    def _lay_out(self, probe: PenaltyProbe) -> None:
        """Create meters, rings and bound events for what there is to measure now."""
        layout, self.events = self.listeners.lay_out(probe)
        self.buffer.lay_out(layout)
        self.timeline.row = None
        for meter in self._gradients.meters:
            meter.ring = self.buffer.rings[meter.device]

    def change(self, probe: PenaltyProbe) -> None:
        """Hand out the rows so far and begin anew: other penalties act from the coming row on."""
        self.fetch(open_row=True)
        self._lay_out(probe)

    def attach(self, before_step: Callable[[int], None]) -> None:
        """Put the hooks on, and start the thread that hands rows out.

        Args:
            before_step: called with the step's number when a row begins, before the optimizer has done anything.
        """
        self._before_step = before_step
        self.begin_at(0)
        for optimizer in self._optimizers:
            self._before[id(optimizer)] = StepHook(optimizer, self._on_pre_step)
            self._hooks.append(optimizer.register_step_post_hook(EagerHook(self._on_post_step)))
        for one in self.listeners.each:
            one.attach()
        self.buffer.start()

    def begin_at(self, step: int) -> None:
        """Set the number of the next step."""
        self.timeline.begin_at(step)
        self.events.row_begun()

    def detach(self) -> None:
        """Remove every hook, hand out the rest, and end the thread."""
        for hook in (*self._before.values(), *self._hooks):
            hook.remove()
        self._hooks = []
        for one in self.listeners.each:
            one.detach()
        self.buffer.stop()

    def capture(self) -> dict[str, Any]:
        """Return for the record's ``capture`` who measured what, what was not seen, and why."""
        found = {"buffer_bytes": self.buffer.bytes} | self.listeners.capture() | self.buffer.ranks.capture()
        return found | ({"step_hooks": UNSEEN} if any(hook.unseen for hook in self._before.values()) else {})

    def fetch(self, open_row: bool = False) -> None:
        """Wait until all finished rows have been handed out; ``open_row``: the one of the latest step as well."""
        if open_row:
            self.listeners.logged.decide(ends=True)
            self.buffer.finish()
        self.buffer.fetch(whole=open_row)

    def log(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Log scalars of the latest backward's step: of the coming row before its step, else of the last."""
        (self._graphs if self.buffer.on_cuda and self._graphs.capturing() else self.listeners.logged).log(scalars)
        if "loss" in scalars:
            self.listeners.missed.loss_logged()

    # -- a backward pass --------------------------------------------------------------------------

    def _pass_ended(self, task: int) -> None:
        if self.buffer.stopped:
            return
        events = self.events
        events.pass_ended(task)
        if self.buffer.on_cuda and self._graphs.capturing():
            self._graphs.pass_captured()
            return
        for meter in self._gradients.meters:
            if meter.fired:
                self._before[id(meter.optimizer)].place()
                if not self._once[id(meter.optimizer)].running:
                    events.meter_passed(meter)
                if (number := self.timeline.row_to_come(meter.optimizer)) is not None:
                    events.measure(meter, number)
        events.passes_measured()

    # -- a step -----------------------------------------------------------------------------------

    def _on_pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        once = self._once.get(id(optimizer))
        if once is None or self.buffer.stopped or not once.begins(optimizer):
            return None
        if (closure := closure_of(args, kwargs)) is not None:  # the gradients of this step do not exist yet
            return with_closure(args, kwargs, followed(closure, lambda: self.observe(optimizer)))
        self.observe(optimizer)
        return None

    def observe(self, optimizer: Optimizer, skipped: bool = False) -> None:
        """Begin the row of this step, or join this optimizer's share to it. ``skipped``: by a GradScaler."""
        timeline, events = self.timeline, self.events
        with no_grad():
            if self.buffer.on_cuda and self._graphs.capturing():
                if (row := self._graphs.row_of(optimizer)) is None:
                    return
            else:
                events.step_opens()
                if self.buffer.paused:
                    self._graphs.capture_ends(None)  # it ended without a word
                if not timeline.joins(optimizer):
                    self.begin_row()
                    events = self.events  # others, where penalties have changed
                timeline.open.add(id(optimizer))
                row = timeline.row
                events.row_joined()
            timeline.fresh_backward = False
            number = self.buffer.number - 1 if row is None else row.number
            for meter in self._gradients.of[id(optimizer)]:
                events.before_step(meter, number, row, skipped)
            events.step_observed(optimizer)
            if row is not None:
                row.skipped |= skipped

    def begin_row(self, captured: Captured | None = None) -> None:
        """Begin a row for a step, recorded or not. ``captured``: it is one that a CUDA graph repeats."""
        timeline = self.timeline
        timeline.open.clear()
        self.events.row_opens()
        self._before_step(timeline.step + 1)
        if captured is not None and not captured.usable:
            return  # other penalties have come
        timeline.step += 1
        self.buffer.finish()
        timeline.row = self._next_row(captured) if timeline.cadences["rows"].at(timeline.step) else None
        if captured is None:  # else the graph is still to take what forward passes have left
            self.events.row_begun()

    def _next_row(self, captured: Captured | None) -> HostRow:
        timeline, buffer = self.timeline, self.buffer
        row = HostRow(buffer.number, timeline.step, timeline.epoch, time.perf_counter() - self._start)
        if captured is None:
            self.events.row_begins(row)
        else:
            row.repeat(captured.row)
            self.events.row_repeated(row)
        buffer.add(row)
        timeline.rows += 1
        return row

    def _on_post_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        once = self._once.get(id(optimizer))
        if once is None or self.buffer.stopped or not once.ends(optimizer):
            return
        if self.buffer.on_cuda and self._graphs.capturing() and self._graphs.usable() is None:
            return
        if self.timeline.fresh_backward:
            self.timeline.fresh_backward = False
            self.events.closure_again()
        self.events.step_seen(optimizer)
        self._before[id(optimizer)].place()
        for meter in self._gradients.of[id(optimizer)]:
            self.events.after_step(meter, self.buffer.number - 1)
