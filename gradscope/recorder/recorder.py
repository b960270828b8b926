"""The instrument on a training loop: hooks that say where the loop stands, and the rows they write.

    for x, y in loader:
        loss = criterion(model(x), y)      # forward hooks: activations of the coming row
        optimizer.zero_grad()
        loss.backward()                    # its end: gradients and weights into the coming row (Meter)
        optimizer.step()                   # pre-hook: the row begins; what changed since, λ, learning rate
        run.log(loss=loss)                 # joins that row

A row stays open until the next one begins, so that `log` can still reach it. Kernels write rows where they
stand, in a ring on the device; a background thread fetches them in bulk and hands blocks to the sink.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Variable
from torch.optim import Optimizer

from gradscope import checks
from gradscope.optimizers.groups import Groups, number
from gradscope.optimizers.one_step import OneStep
from gradscope.optimizers.wrapped import inside
from gradscope.recorder import graphs, scaler
from gradscope.recorder.activations import Activations
from gradscope.recorder.blocks import Assembly
from gradscope.recorder.cadence import Cadence
from gradscope.recorder.distributed import GATHERED_ROWS, Ranks
from gradscope.recorder.drain import Drain
from gradscope.recorder.fields import Field
from gradscope.recorder.forwards import Forwards, Shares
from gradscope.recorder.graphs import Captured
from gradscope.recorder.hooks import EagerHook
from gradscope.recorder.kept_gradients import KeptGradients
from gradscope.recorder.kernels.magnitude_bins import COLUMNS, histogram
from gradscope.recorder.memory import no_grad, unknown
from gradscope.recorder.meter import LOOK, Meter, local
from gradscope.recorder.missed_steps import LOGGED, MissedSteps, named
from gradscope.recorder.presets import Preset
from gradscope.recorder.probe import PenaltyProbe
from gradscope.recorder.ring import FIXED, Ring
from gradscope.recorder.rows import Block, HostRow
from gradscope.recorder.scalars import LOGGED as LOGGED_CELLS
from gradscope.recorder.scalars import Said, Scalars, has_graph
from gradscope.recorder.scaled_weights import ScaledWeights
from gradscope.recorder.updates import SPLIT, Updates

NOT_IN_GRAPHS = (
    "replays of a CUDA graph are not recorded that holds several steps, or was captured without a recorded step before "
    "it, or before the penalties changed"
)
PAST_COUNTERS = (
    "gradients were changed between backward() and step() where torch does not count it (.grad.data, numpy): "
    f"clip_coefficient, which may miss it in up to {LOOK - 1} rows before and in some right after, shows it since step"
)
#: Steps at which a name is logged and never recorded, before that is warned about.
MANY_LOST = 16
LEFT_OUT = (
    "forwards in sampled steps are not in the activations: no gradient of theirs was used (skipped batches, probes, "
    "evaluations in training mode)"
)
NOT_TOLD_APART = "rows have no activations: forwards of skipped batches could not be told from those of the step"
IN_GRAPHS = "replays repeat the strengths and learning rates of their capture, but for rates kept in tensors"


#: Steps that could not be measured which a record names one by one.
MOST_TROUBLES = 8

T = TypeVar("T")


class Recorder:
    """Hooks on one model's optimizers; hands blocks of finished rows to ``sink``, from a thread of its own.

    ``before_step(step)``: called when a row begins, before the optimizer has done anything. ``warn(text)``: what the
    user should be told, between two steps. ``steps_missed(why)``: a training goes on of which no step is seen. Nothing
    happens before `attach`.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        parameters: Mapping[str, Tensor],
        probe: PenaltyProbe,
        sink: Callable[[Block], None],
        *,
        preset: Preset,
        cadences: Mapping[str, Cadence],
        activations: Activations | None = None,
        forwards: Forwards,
        before_step: Callable[[int], None] = lambda step: None,
        warn: Callable[[str], None] = lambda text: None,
        steps_missed: Callable[[str], None] = lambda text: None,
        groups: Groups,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.preset, self.cadences, self.activations = preset, cadences, activations
        self.forwards = forwards
        self.shares: Shares | None = None
        if activations is not None:
            self.shares = activations.shares = Shares(activations.states, lambda: [m.cleared() for m in self._meters])
        self.forwards.ended = self._forward_ended
        self.names, self.weights = list(parameters), list(parameters.values())
        self.numel = np.array([w.numel() for w in self.weights], dtype=np.float64)
        self.step, self.epoch = -1, -1
        self.rows = 0  # begun so far
        self.inexact: dict[str, str] = {}  # logged names whose values float32 does not hold, and what became of one
        self.graphed = self.not_in_graphs = False  # what became of steps in CUDA graphs
        self._sampled = False  # activations, ever
        self._clears = False  # a graph may add to them at any step
        self._capture: Captured | None = None  # of the graph that is being captured
        self._graphs: WeakKeyDictionary[Any, Captured] = WeakKeyDictionary()
        self.together = True  # all ranks come to the end of the recording
        self._whole = False  # hand out a last block that is shorter than the others
        self.stopped = False
        self.error: Exception | None = None  # what has ended the background thread
        self._trouble: dict[str, str] = {}  # by step, what went wrong in measuring
        self._optimizers = list(optimizers)
        self._steps = {id(o): OneStep() for o in optimizers}
        self._groups, self._left = groups, groups.left
        self._sink, self._before_step, self._warn = sink, before_step, warn
        self._steps_missed = steps_missed
        self.missing: set[int] = set()  # optimizers of which steps are missed at the moment
        self._called_missing: set[int] = set()  # and of which that was said
        self._logged = 0  # losses since the last step or backward pass
        self._loss_told = False  # in the open row, by `log`
        self._tick: Callable[[], None] = lambda: None
        self._first_step = 0
        self._drain: Drain | None = None
        self._hooks: list[Any] = []
        self._hosts: list[HostRow] = []  # begun and not yet taken by the thread
        self._begun = self._finished = self._fetched = 0
        self._row: HostRow | None = None  # of this step, if it is recorded
        self._open: set[int] = set()
        self._fresh_backward = False
        self._pass = -1  # the backward pass that will call back
        self._later: dict[str, Tensor | float] = {}  # of the next step that is seen
        self._undecided: list[Said] = []
        self._forwards_before = 0  # those before the latest step
        self._forwards_counted = False  # there was one since the step before that
        self._told: set[str] = set()
        self.lost: Counter[str] = Counter()  # logged at steps that are not recorded
        self._amp: Tensor | None = None
        self._scaled_steps: dict[int, Tensor] = {}  # by optimizer, until its step is seen
        self._start = time.perf_counter()
        self._meters: list[Meter] = []
        self._updates: dict[int, Updates] = {}
        self.quantities: tuple[str, ...] = ()
        self._lay_out(probe)

    def attach(self, tick: Callable[[], None]) -> None:
        """Begin. ``tick()``: called by the thread a few times a second."""
        self._tick = tick
        self._sample_next()
        for optimizer in self._optimizers:
            before = optimizer.register_step_pre_hook(EagerHook(self._on_pre_step))
            # First of all, so that no penalty has added itself to the gradients yet.
            optimizer._optimizer_step_pre_hooks.move_to_end(before.id, last=False)  # type: ignore[attr-defined]
            self._hooks += [before, optimizer.register_step_post_hook(EagerHook(self._on_post_step))]
        scaler.watch(self)
        if self.on_cuda:
            graphs.watch(self)
        self._drain = Drain(self._carry)
        _FORKED.add(self)

    def begin_at(self, step: int) -> None:
        """The number of the next step, where it is not 0."""
        self._first_step, self.step = step, step - 1
        self._sample_next()

    # -- layout -----------------------------------------------------------------------------------

    def _lay_out(self, probe: PenaltyProbe) -> None:
        """Meters and rings for what there is to measure now."""
        self.probe = probe
        quantities = self.preset.quantities
        if "weight_nonzero" not in quantities and probe.needs_zeros():
            quantities = (*quantities, "weight_nonzero")
        members = [(o, columns) for o in self._optimizers for columns in self._columns(o) if self.ranks.measures]
        if quantities != self.quantities or members != [(m.optimizer, m.columns) for m in self._meters]:
            self.quantities = quantities
            for meter in self._meters:
                meter.detach()
            self._meters = [
                Meter(n, o, columns, [self.weights[i] for i in columns], quantities, self._on_backward)
                for n, (o, columns) in enumerate(members)
            ]
            full = self._meters if self.preset.full else ()
            self._updates = {m.number: Updates(m.number, m.optimizer, m.weights) for m in full}
        for meter in self._meters:
            if meter.number in self._updates:
                meter.measured = self._also_measure(meter)
            meter.by_hand = self.ranks.by_hand
            meter.inside_loss = self._inside_loss if probe.inside_loss is not None else None
            meter.stepped()
        self._of = {id(o): [m for m in self._meters if m.optimizer is o] for o in self._optimizers}
        self._missed = {m.number: MissedSteps(m) for m in self._meters}
        self._kept = {m.number: KeptGradients(m) for m in self._meters}
        self._left_as = {m.number: ScaledWeights(m) for m in self._meters if m.device.type in ("cpu", "cuda")}
        columns = {id(o): {i for m in self._of[id(o)] for i in m.columns} for o in self._optimizers}
        #: The optimizers that move some of the same weights, itself among them.
        self._rivals = {a: {b for b in columns if a == b or columns[a] & columns[b]} for a in columns}
        self._missed_of = {
            a: [self._missed[m.number] for b in rivals for m in self._of[b]] for a, rivals in self._rivals.items()
        }
        self._make_rings()

    def _also_measure(self, meter: Meter) -> Callable[[list[Tensor | None], int], None]:
        """What the preset `full` takes of gradients at the end of a backward pass, beside their table."""

        def measured(gradients: list[Tensor | None], row: int) -> None:
            ring = self.rings[meter.device]
            self._updates[meter.number].measured(gradients, ring, row)
            step = self.step if row == self._begun - 1 else self.step + 1
            if row == FIXED or self.cadences["histograms"].at(step):
                plain = gradients if self._amp is None else [None if g is None else g / self._amp for g in gradients]
                histogram([local(w.detach()) for w in meter.weights], ring.view(meter.weight_bins, row))
                histogram(plain, ring.view(meter.gradient_bins, row))

        return measured

    def _columns(self, optimizer: Optimizer) -> list[list[int]]:
        """The recorded parameters that this optimizer moves, by device."""
        where = {id(w): i for i, w in enumerate(self.weights)}
        members = sorted({where[id(p)] for g in optimizer.param_groups for p in g["params"] if id(p) in where})
        devices = dict.fromkeys(self.weights[i].device for i in members if not self.weights[i].is_meta)
        return [[i for i in members if self.weights[i].device == device] for device in devices]

    def _make_rings(self) -> None:
        home = next(w.device for w in self.weights if not w.is_meta)
        fields: dict[torch.device, dict[str, Field]] = {home: self._common_fields()}
        for meter in self._meters:
            fields.setdefault(meter.device, {}).update(self._fields(meter))
        self.rings = {device: Ring(device, names) for device, names in fields.items()}
        self._home = self.rings[home]
        #: Whether fetching rows means waiting for a device.
        self.on_accelerator = any(device.type != "cpu" for device in self.rings)
        self.on_cuda = any(device.type == "cuda" for device in self.rings)
        self._capacity = min(ring.rows for ring in self.rings.values()) - 2  # the open row, and the one to come
        for meter in self._meters:
            meter.ring = self.rings[meter.device]
        self._scalars = Scalars(self._home, self.ranks.sharded)
        self._begun = self._finished = self._fetched = 0
        names = () if self.activations is None else self.activations.quantities
        self._assembly = Assembly(self.probe, self.quantities, self.numel, self._meters, self._updates, names)
        self._assembly.inexact = self.inexact

    def _fields(self, meter: Meter) -> dict[str, Field]:
        found = meter.fields()
        if meter.number in self._updates:
            bins = Field((len(meter.weights), COLUMNS), "sum", meter.weights, axis=0)
            found |= self._updates[meter.number].fields() | {meter.weight_bins: bins, meter.gradient_bins: bins}
        return found

    def _common_fields(self) -> dict[str, Field]:
        fields = {"cells": LOGGED_CELLS, "rates": Field((sum(self._groups.counts),), "mean")}
        if self.activations is not None:  # each rank has seen its own batch
            if self.preset.full:
                fields["units"] = Field((len(self.activations.unit_names),), "mean")
            shape = (len(self.activations.quantities), len(self.activations.names))
            fields["activations"] = Field(shape, "mean")
        if self.probe.value_inside_loss is not None:
            fields["inside"] = Field((1,), "sum")
        for index, term in enumerate(self.probe.terms):
            if term.shares is None:
                fields[f"penalty{index}"] = Field((len(term.columns),), "mean")
        return fields

    def change(self, probe: PenaltyProbe) -> None:
        """Other penalties act from the coming row on: hand out the rows so far, and begin anew."""
        self.fetch(open_row=True)
        self._lay_out(probe)
        for captured in self._graphs.values():  # they measure what is no more read
            captured.usable = False
            if captured.optimizers:
                self._not_in_graphs()
        self._graphs.clear()

    def _inside_loss(self, weights: Sequence[Tensor]) -> list[Tensor]:
        assert self.probe.inside_loss is not None
        extra = self.probe.inside_loss(weights)
        return extra if self._amp is None else [e * self._amp.to(e.device) for e in extra]

    @property
    def never_cleared(self) -> bool:
        """Whether the gradients of an optimizer were never cleared in the first steps."""
        return any(kept.never_cleared for kept in self._kept.values())

    @property
    def taken_by_hand(self) -> float:
        """What the script takes of the weights after each of the first steps, as a share of them; 0 for nothing."""
        return max((left.share for left in self._left_as.values()), default=0.0)

    @property
    def cut_by_value(self) -> float:
        """What is left of the gradients' norm, on average, where they are clipped by value; NaN where they are not."""
        return self._assembly.cut_by_value

    def capture(self) -> dict[str, Any]:
        """For the record's ``capture``: who measured what, what was not seen, and why."""
        found: dict[str, Any] = {
            "statistics": [reason for meter in self._meters for reason in meter.plan.reasons],
            "measured_at_step": sum(meter.late for meter in self._meters),
            "buffer_bytes": self.bytes,
        }
        past = [meter.past_counters for meter in self._meters if meter.past_counters is not None]
        if past:
            found["changed_past_counters"] = f"{PAST_COUNTERS} {min(past)}"
        if self.lost:
            found["logged_between_rows"] = {"not_recorded": dict(self.lost), "rows": str(self.cadences["rows"])}
        if self.inexact:
            found["kept_as_float32"] = dict(self.inexact)
        if self._groups.joined:
            found["joined_later"] = f"{self._groups.joined} parameters that joined the optimizer's groups: not recorded"
        if unread := self._unread():
            found["not_read"] = unread
        if self.graphed:
            found["cuda_graphs"] = NOT_IN_GRAPHS if self.not_in_graphs else IN_GRAPHS
        if self.activations is not None:
            found["modules_not_seen"] = self.activations.unseen
        if self.shares is not None and self.shares.left_out:
            found["forwards_left_out"] = f"{self.shares.left_out} {LEFT_OUT}"
        if self.shares is not None and self.shares.unclear:
            found["forwards_not_told_apart"] = f"{self.shares.unclear} {NOT_TOLD_APART}"
        if unknown := sorted({type(u.optimizer).__name__ for u in self._updates.values() if not u.knows_split}):
            found["update_proportion"] = f"not known for {', '.join(unknown)}; for {', '.join(SPLIT)} it is"
        if self.ranks.size > 1:
            how = "averaged over ranks" if self.ranks.sharded else "of rank 0"
            found["ranks"] = f"loss, other logged scalars and activations are {how}"
        return found

    def _unread(self) -> dict[str, str]:
        """Parameters, by name, of which something is not known, and why."""
        found = {i: "on the device meta, without numbers" for i, w in enumerate(self.weights) if w.is_meta}
        for meter in self._meters:
            found |= meter.unread()
        return {self.names[i]: found[i] for i in sorted(found)} | self._trouble

    def _measured(self, meter: Meter, row: int, measure: Callable[..., T], *arguments: Any) -> T | None:
        """Let a meter measure. What that ends in an error is not known, and named; the training goes on."""
        try:
            return measure(*arguments)
        except Exception as error:
            for name in self._fields(meter):
                self.rings[meter.device].view(name, row).fill_(float("nan"))
            step = self.step + 1 if row == self._begun else self.step
            what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            if not self._trouble:
                self._warn(f"step {step} was not measured, {what}; the training goes on")
            if len(self._trouble) < MOST_TROUBLES:
                self._trouble[f"step {step}"] = what
            return None

    @property
    def bytes(self) -> int:
        """Device memory that the ring takes; it does not grow with the number of steps."""
        return sum(ring.bytes for ring in self.rings.values())

    # -- a backward pass --------------------------------------------------------------------------

    def _on_backward(self) -> None:
        """A sentinel's gradient is there: ask to be called at the end of this pass."""
        self._fresh_backward = True
        task = torch._C._current_graph_task_id()
        if task != self._pass:
            self._pass = task
            # Once more at the very end: DDP and FSDP finish the gradients in callbacks of their own.
            last = self._after_backward if self.ranks.size == 1 else self._at_the_end
            Variable._execution_engine.queue_callback(EagerHook(last))

    def _at_the_end(self) -> None:
        """The callbacks that were asked for so far have been called, or are about to be."""
        Variable._execution_engine.queue_callback(EagerHook(self._after_backward))

    def _after_backward(self) -> None:
        task, self._pass = self._pass, -1
        if self.stopped:
            return
        if self.shares is not None:
            self.shares.passed(task)
        if self._in_a_graph():
            self._capture_pass()
            return
        suspicious = False
        for meter in self._meters:
            if meter.fired:
                if not self._steps[id(meter.optimizer)].running:
                    suspicious |= self._missed[meter.number].passed()
                    self._kept[meter.number].passed()
                if (row := self._row_to_come(meter)) is not None:
                    self._measured(meter, row, meter.after_backward, row)
        self._logged = 0
        if suspicious:
            self._look_for_missed_steps()

    def _look_for_missed_steps(self, at_the_end: bool = False) -> None:
        """Says once of an optimizer that none of its steps is seen."""
        found = {m: text for m in self._meters if (text := self._missed[m.number].found(at_the_end))}
        if not found and self._logged >= LOGGED:
            found = dict.fromkeys(self._meters, f"the loss was logged {self._logged} times without a backward pass")
        if at_the_end and not found and not self.rows and any(missed.passes > 1 for missed in self._missed.values()):
            found = dict.fromkeys(self._meters, "there were backward passes")
        self.missing |= {id(meter.optimizer) for meter in found}
        new = {m: text for m, text in found.items() if id(m.optimizer) not in self._called_missing}
        if new:
            self._called_missing |= self.missing
            names = [type(meter.optimizer).__name__ for meter in new]
            self._steps_missed(named(names, next(iter(new.values())), self.step if self.rows else -1))

    def _row_to_come(self, meter: Meter) -> int | None:
        """The number of the row that this optimizer's next step belongs to, None if it is not recorded."""
        if self._joins(meter.optimizer):
            return None if self._row is None else self._begun - 1
        return self._begun if self.cadences["rows"].at(self.step + 1) else None

    def _forward_ended(self, output: Any) -> None:
        """An outermost forward of the model has."""
        if self.activations is None or self.shares is None or self.stopped or self._capture is not None:
            return
        if self.activations.sampling:
            self.shares.ended(output)

    def _joins(self, optimizer: Optimizer) -> bool:
        """Whether its step belongs to the open row: another part of the model takes the same step there.

        Not so where the other moves the same weights, or where the loss of that step is known and a backward pass
        has followed: then one is used after the other.
        """
        if not self._open or not self._open.isdisjoint(self._rivals[id(optimizer)]):
            return False
        return not (self._loss_told and self._fresh_backward)

    # -- a step -----------------------------------------------------------------------------------

    def _on_pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if id(optimizer) not in self._of or self.stopped or not self._steps[id(optimizer)].begins(optimizer):
            return None
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._observe(optimizer)
            return None
        # The gradients of this step do not exist yet: look when the closure has made them.
        seen = False

        def observed() -> Any:
            nonlocal seen
            loss = closure()
            if not seen:
                seen = True
                self._observe(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], observed, *args[2:]), kwargs
        return args, {**kwargs, "closure": observed}

    def _observe(self, optimizer: Optimizer, skipped: bool = False) -> None:
        """The row of this step, or this optimizer's share of it."""
        with no_grad():
            if not self._in_a_graph():
                self._decide()
            if self._in_a_graph():
                if (captured := self._usable_capture()) is None or id(optimizer) in captured.optimizers:
                    self._cannot_capture()
                    return
                row: HostRow | None = self._capture_row(captured, optimizer)
                number = FIXED
            else:
                if self._capture is not None:  # it ended without a word
                    self.capture_ends(None)
                if not self._joins(optimizer):
                    self._begin_row()
                self._open.add(id(optimizer))
                row, number = self._row, self._begun - 1
                self._join_earlier()
            self._fresh_backward = False
            scale = self._scaled_steps.pop(id(optimizer), None)
            for meter in self._of[id(optimizer)]:
                if meter.number in self._left_as and number != FIXED:
                    self._measured(meter, number, self._left_as[meter.number].begins)
                if row is not None and (taken := self._measured(meter, number, meter.take, number, scale)) is not None:
                    row.taken[meter.number] = taken
                if meter.number in self._updates and self.probe.pulls is not None and not skipped:
                    measured = number if row is not None and row.updates else None
                    self._measured(meter, number, self._updates[meter.number].before_step, measured, self.probe.pulls)
            if row is not None:
                row.skipped |= skipped

    def _begin_row(self, replayed: Captured | None = None) -> None:
        self._open.clear()
        self._loss_told = False
        self._forwards_counted = self.forwards.count != self._forwards_before
        self._before_step(self.step + 1)
        if replayed is not None and not replayed.usable:
            return  # other penalties have come
        self.step += 1
        self._finished = self._begun
        if not self.cadences["rows"].at(self.step):
            self._row = None
        else:
            self._row = self._next_row(replayed)
        if replayed is None:  # else the graph is still to take what forward passes have left
            self._sample_next()

    def _next_row(self, replayed: Captured | None) -> HostRow:
        if self._begun - self._fetched >= self._capacity:
            self._wait()
        number = self._begun
        if replayed is None:
            row = HostRow(self.step, self.epoch, self._clock(), self.probe.strengths(), self._rates(number))
            row.updates = self.preset.full and self.cadences["updates"].at(self.step)
            row.histograms = self.preset.full and self.cadences["histograms"].at(self.step)
            self._leave(row, number)
        else:
            row = replace(
                replayed.row, step=self.step, epoch=self.epoch, time=self._clock(), taken={}, values={}, cells={}
            )
            for name, quantity in (("updates", "updates"), ("histograms", "histograms"), ("sampled", "activations")):
                setattr(row, name, getattr(row, name) and self.cadences[quantity].at(self.step))
        self._hosts.append(row)
        self._begun += 1
        self.rows += 1
        for ring in self.rings.values():
            ring.mark()
        return row

    def _clock(self) -> float:
        return time.perf_counter() - self._start

    def _leave(self, row: HostRow, number: int) -> None:
        """What the forward pass and the weights have left for this row, into the ring."""
        if self.activations is not None and self.activations.sampling:
            clear = self.activations.settle()
            if self.preset.full:
                self._home.view("units", number).copy_(self.activations.unit_scales(self._home.device))
            self._home.view("activations", number).copy_(self.activations.take(self._home.device))
            row.sampled, self._sampled = clear, True
        if self.probe.value_inside_loss is not None:
            self._home.view("inside", number).copy_(self.probe.value_inside_loss().reshape(1))
        if self.probe.measure is not None:
            for index, sizes in self._penalty_sizes().items():
                self._home.view(f"penalty{index}", number).copy_(sizes)

    def _penalty_sizes(self) -> dict[int, Tensor]:
        """Σ|∂Ω/∂w| where it has to be measured, by term; NaN where a weight is none that a penalty knows."""
        assert self.probe.measure is not None
        try:
            return self.probe.measure(self.weights)
        except Exception as error:
            self._trouble["penalty_gradient_mean_abs"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            measured = [(i, t.columns) for i, t in enumerate(self.probe.terms) if t.shares is None]
            return {i: unknown((len(columns),), self._home.device) for i, columns in measured}

    def _rates(self, row: int) -> list[float | None]:
        rates: list[float | None] = []
        groups = self._groups.now()
        if self._groups.left is not self._left:
            self._members_changed()
        for index, group in enumerate(groups):
            lr = None if group is None else group.get("lr")
            if isinstance(lr, Tensor) and lr.numel() == 1 and lr.is_cpu == (self._home.device.type == "cpu"):
                self._home.view("rates", row)[index].copy_(lr.reshape(()))  # `capturable`: it stays on the device
                rates.append(None)
            else:
                rates.append(number(lr))
        return rates

    def _members_changed(self) -> None:
        """Parameters have left the optimizers' groups, or are back: of those that are gone nothing is known."""
        self._left = self._groups.left
        for meter in self._meters:
            gone = [i for i, w in enumerate(meter.weights) if id(w) in self._left]
            meter.gone = {i: meter.gone.get(i, self.step) for i in gone}
            if meter.number in self._updates:
                self._updates[meter.number].forget(gone)

    def _sample_next(self) -> None:
        if self.activations is not None:
            coming = self.step + 1
            if self.activations.sampling or self._clears:
                self.activations.clear()  # of forwards since the row was taken
            self.activations.sampling = self.cadences["rows"].at(coming) and self.cadences["activations"].at(coming)

    def _on_post_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        meters = self._of.get(id(optimizer))
        if meters is None or self.stopped or not self._steps[id(optimizer)].ends(optimizer):
            return
        if self._in_a_graph() and self._usable_capture() is None:
            return
        if self._fresh_backward:  # a closure was called again: its later forwards and words belong to no row
            self._fresh_backward, self._later = False, {}
            if self.activations is not None and self.activations.sampling:
                self.activations.clear()
        self._step_seen(optimizer)
        for meter in meters:
            meter.stepped()
            self._kept[meter.number].stepped()
            if meter.number in self._left_as and not self._in_a_graph():
                self._measured(meter, self._begun - 1, self._left_as[meter.number].stepped)
            if meter.number in self._updates:
                with no_grad():
                    act = self._updates[meter.number].after_step
                    self._measured(meter, self._begun - 1, act, self.rings[meter.device])

    def _step_seen(self, optimizer: Optimizer) -> None:
        self._logged = 0
        if self.missing:
            self.missing -= self._rivals[id(optimizer)]
        for missed in self._missed_of[id(optimizer)]:
            missed.stepped()

    # -- CUDA graphs ------------------------------------------------------------------------------

    def _in_a_graph(self) -> bool:
        """Whether what runs now is being captured."""
        return self.on_cuda and torch.cuda.is_current_stream_capturing()

    def _not_in_graphs(self) -> None:
        if not self.not_in_graphs:
            self.graphed = self.not_in_graphs = True
            warnings.warn(f"{NOT_IN_GRAPHS}; train a step or more before a capture", stacklevel=checks.users_line())

    def capture_begins(self) -> None:
        """The hooks write the fixed row until `capture_ends`; the background thread leaves the device alone."""
        if self.stopped:
            return
        # First steps send tables from the host and compile kernels, which no replay could repeat.
        holds = (self.rings, self._meters, self._updates, self._scalars, self.activations)
        sampling = self.activations is not None and self.activations.sampling
        self._capture = Captured(holds, usable=self.rows > 0, sampling=sampling)
        self._wait()
        if self.activations is not None:
            self.activations.sampling = self._sampled

    def _usable_capture(self) -> Captured | None:
        return self._capture if self._capture is not None and self._capture.usable else None

    def _cannot_capture(self) -> None:
        if self._capture is not None:
            self._capture.usable = False
        self._not_in_graphs()

    def _capture_pass(self) -> None:
        if (captured := self._usable_capture()) is None:
            self._cannot_capture()
            return
        for meter in self._meters:
            if meter.fired:
                meter.after_backward(FIXED)
                captured.passes[meter.number] = meter

    def _capture_row(self, captured: Captured, optimizer: Optimizer) -> HostRow:
        row = captured.row
        if not captured.optimizers:
            row.strengths, row.rates = self.probe.strengths(), self._rates(FIXED)
            row.updates = row.histograms = self.preset.full
            self._leave(row, FIXED)
        captured.optimizers[id(optimizer)] = optimizer
        return row

    def capture_ends(self, graph: Any) -> None:
        """``graph``: None where the capture came to nothing."""
        captured, self._capture = self._capture, None
        if captured is None:
            return
        if self.activations is not None:
            self.activations.sampling = captured.sampling
            self._clears |= self._sampled
        stepped = [meter for identity in captured.optimizers for meter in self._of[identity]]
        for meter in (*captured.passes.values(), *stepped):
            meter.stepped()
            self._fresh_backward = False
        if graph is None:
            return
        graphs.hold(graph, self, captured)  # whatever it holds, the activation hooks may be in it
        self._graphs.pop(graph, None)
        if captured.usable and (captured.passes or captured.optimizers):
            self.graphed = True
            self._graphs[graph] = captured

    def before_replay(self, graph: Any) -> None:
        """A row begins, if the graph holds a step."""
        captured = self._graphs.get(graph)
        if captured is None or self.stopped:
            return
        captured.begins = bool(captured.optimizers) and (
            not self._open or not self._open.isdisjoint(captured.optimizers)
        )
        if captured.begins:
            self._decide()
            self._begin_row(captured)
            self._join_earlier()
        for optimizer in captured.optimizers.values():
            self._step_seen(optimizer)
        if captured.usable:
            self._open |= captured.optimizers.keys()
            self._fresh_backward &= not captured.optimizers

    def after_replay(self, graph: Any) -> None:
        """From the fixed row into that of this step, or of the step to come."""
        captured = self._graphs.get(graph)
        if captured is None or self.stopped:
            return
        row = self._row
        if captured.optimizers and row is not None:
            row.taken |= captured.row.taken
            stepped = [meter for identity in captured.optimizers for meter in self._of[identity]]
            names = [name for meter in stepped for name in self._fields(meter)]
            if captured.begins:
                names += [name for name in self._common_fields() if name != "cells"]
            for ring in self.rings.values():
                ring.keep(self._begun - 1, names)
            for meter in stepped:
                if meter.number in self._updates and row.updates:
                    self._updates[meter.number].keep()
        for meter in captured.passes.values():
            if id(meter.optimizer) not in captured.optimizers:
                self._fresh_backward = True
                if (number := self._row_to_come(meter)) is not None:
                    self.rings[meter.device].keep(number, self._fields(meter))
                    meter.after_replay(number)
        if captured.begins:
            self._sample_next()
        if captured.row.cells:
            self.log(self._scalars.repeated(captured.row.cells))

    # -- automatic mixed precision ----------------------------------------------------------------

    def loss_scale(self) -> Tensor | None:
        """The factor of the GradScaler that scaled the latest loss, None without one."""
        return self._amp

    def next_is_recorded(self) -> bool:
        """Whether the coming step has a row."""
        return self.cadences["rows"].at(self.step + 1)

    def scaling(self, scale: Tensor) -> None:
        """A loss is being scaled (see `scaler`)."""
        self._amp = scale

    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        """Its gradients carry this factor, or carried it when the backward pass ended."""
        for one in self._recorded(optimizer):
            self._scaled_steps[id(one)] = scale.detach().clone()

    def after_scaled_step(self, optimizer: Optimizer) -> None:
        """If the optimizer was not called, the step was skipped: an attempted step, and a row, all the same."""
        for one in self._recorded(optimizer):
            if id(one) in self._scaled_steps and not self.stopped:
                self._observe(one, skipped=True)
                self._step_seen(one)
                for meter in self._of[id(one)]:
                    meter.stepped()

    def _recorded(self, optimizer: Optimizer) -> list[Optimizer]:
        """Which of the recorded optimizers this is, or wraps."""
        return [optimizer] if id(optimizer) in self._of else [o for o in inside(optimizer) if id(o) in self._of]

    # -- scalars ----------------------------------------------------------------------------------

    def log(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Scalars of the latest backward's step: of the coming row before its step, else of the last."""
        if self._in_a_graph():
            if (captured := self._usable_capture()) is not None:
                for name, value in scalars.items():
                    self._scalars.put(captured.row, FIXED, name, value)
        elif self._fresh_backward or self.step < self._first_step:
            self._later.update({name: self._scalars.kept(name, value) for name, value in scalars.items()})
        else:
            self._loss_told |= "loss" in scalars
            forwards, before = self.forwards.count, self._forwards_before
            if forwards != before or (not self._forwards_counted and any(map(has_graph, scalars.values()))):
                self._undecided.append(Said(scalars, self._scalars, forwards, forwards != before))
            else:
                self._put(scalars)
        if "loss" in scalars:
            self._logged += 1
            if self._logged >= LOGGED:
                self._look_for_missed_steps()

    def _put(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Into the row of the latest step, if it is recorded."""
        for name, value in scalars.items():
            if self._row is not None:
                self._scalars.put(self._row, self._begun - 1, name, value)
                self._told.add(name)
                continue
            self.lost[name] += 1
            if self.lost[name] == MANY_LOST and name not in self._told:
                warnings.warn(
                    f"log({name}=…) was called at {MANY_LOST} steps and at none that is recorded "
                    f"(every={str(self.cadences['rows'])!r}); log it at each step, or at those that are recorded",
                    stacklevel=checks.users_line(),
                )

    def _join_earlier(self) -> None:
        """A row has begun: what was logged for it before joins it."""
        if self._later:
            later, self._later = self._later, {}
            self._put(later)
        self._forwards_before = self.forwards.count

    def _decide(self, ends: bool = False) -> None:
        """A step begins, or none will: were the words in `_undecided` said after the last step, or of this one's loss?

        What belongs to neither was said of a batch that was skipped: it replaces nothing that the last row has.
        """
        said, self._undecided = self._undecided, []
        had = () if self._row is None or not said else (*self._row.values, *self._row.cells)
        for one in said:
            coming = one.belongs_to_the_coming(self.forwards.count)
            if coming and not ends:
                self._later.update(one.values)
            elif not one.reached:
                self._put({name: value for name, value in one.values.items() if name not in had})

    # -- leaving the device -----------------------------------------------------------------------

    def _carry(self) -> None:
        """The background thread's work: fetch the finished rows and hand them on."""
        if self._capture is not None:  # a capture does not bear another thread's use of the device
            return
        whole = self._whole  # read before the count of rows that it speaks of
        while (n := self._finished - self._fetched) > 0:
            if self.ranks.sharded and n < GATHERED_ROWS and not (whole and self.ranks.same_everywhere(n)):
                break
            self._carry_rows(self._fetched + (min(n, GATHERED_ROWS) if self.ranks.sharded else n))
        self._tick()

    def _carry_rows(self, stop: int) -> None:
        first = self._fetched
        hosts = self._hosts[: stop - first]
        tables = {device: ring.read(first, stop) for device, ring in self.rings.items()}
        tables[self._home.device] |= self._scalars.read(first, stop)
        if self.ranks.sharded:
            fields = {device: ring.fields for device, ring in self.rings.items()}
            self.ranks.whole(tables, fields | {self._home.device: self._home.fields | self._scalars.fields})
        if self.ranks.measures:
            block = self._assembly.block(hosts, tables)
            self._sink(block)
        del self._hosts[: stop - first]
        self._fetched = stop

    def fetch(self, open_row: bool = False) -> None:
        """Returns when all finished rows have reached the sink; ``open_row``: the one of the latest step as well."""
        if open_row:
            self._decide(ends=True)
            self._finished = self._begun
        self._whole = open_row
        self._wait()
        self._whole = False

    def _wait(self) -> None:
        if self._drain is not None:
            try:
                self._drain.wait()
            except Exception as error:  # of ours; whoever trains has no part in it
                self.error, self.stopped = error, True

    def kick(self) -> None:
        """Have the finished rows fetched soon."""
        if self._drain is not None:
            self._drain.kick()

    def check(self) -> Exception | None:
        """The error that has ended the background thread, if one has; nothing is recorded after it."""
        if self._drain is not None and self._drain.ended:
            self.stopped = True
            try:
                self._drain.check()
            except Exception as error:
                self.error = error
        return self.error

    def detach(self) -> None:
        """Remove every hook, hand out the rest, and end the thread."""
        if not self.stopped:
            self._look_for_missed_steps(at_the_end=True)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        scaler.unwatch(self)
        graphs.unwatch(self)
        self._capture = None
        for meter in self._meters:
            meter.detach()
        if self.activations is not None:
            self.activations.detach()
        self.forwards.detach()
        self._decide(ends=True)
        self._finished, self._whole = self._begun, self.together
        if self._drain is not None:
            self._drain.stop()
        self.stopped = True


_FORKED: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _stop_in_child() -> None:
    """A forked process (a DataLoader's worker) has the hooks, but neither the thread nor a right to the file."""
    for recorder in list(_FORKED):
        recorder.stopped = True


os.register_at_fork(after_in_child=_stop_in_child)
