"""Record activation scales by forward hooks on modules, pooled over the micro-batches of a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, HostRow
from gradscope.recorder.kernels.kinds import Unreadable, entries
from gradscope.recorder.kernels.module_rows import FULL_QUANTITIES, QUANTITIES, ModuleRows
from gradscope.recorder.kernels.unit_statistics import UnitStatistics, host_kernel, number_of_units
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.forwards import Forwards, Shares
from gradscope.recorder.memory import unknown, zeros
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline
from gradscope.torch_utils.backward_state import accumulates_below, runs_for_the_first_time
from gradscope.torch_utils.module_hooks import Hook, ModuleHooks, is_traced, takes_hooks

__all__ = ["FULL_QUANTITIES", "LARGEST_MODULE", "QUANTITIES", "Activations", "first_tensor"]

#: Units up to which a module's units are told one by one.
LARGEST_MODULE = 1024

#: Sampled rows on end without a number, after which a module that had some is named.
SILENT_ROWS = 3

#: Known to the compiler by its identity. Before torch 2.7 code cannot ask, and an export is compiled like all else.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)

LEFT_OUT = (
    "forwards in sampled steps are not in the activations: no gradient of theirs was used (skipped batches, probes, "
    "evaluations in training mode)"
)
NOT_TOLD_APART = "rows have no activations: forwards of skipped batches could not be told from those of the step"
_COMPILED_LATE = (
    "what was compiled while no step was sampled may have no activations (compile before recording); since step"
)
_SILENT = "no forward of it was seen in a sampled step since step"
_NOT_SEEN = "no forward of it in training mode, with gradients, was seen"
_OR_COMPILED = "; a model that was compiled and called before the recording began does not see the hooks"


class _ForwardHook(Hook):
    """Hook that pools what its module puts out, at the time when it is put out: what follows may write over it."""

    def __init__(self, of: Activations, sums: UnitStatistics) -> None:
        super().__init__()
        self._of, self._sums = of, sums

    def __call__(self, *arguments: Any) -> None:
        of = self._of
        if not of.sampling:
            return
        module, _, output = arguments
        if not (module if of.root is None else of.root).training or not torch.is_grad_enabled():
            return  # an evaluation between two steps is not part of either
        if torch.compiler.is_compiling():
            self._add_in_compiled_code(output)
            return
        if is_traced():
            self._sums.odd = "its forwards ran inside a function transform or a trace"
            return
        if torch._C._current_graph_task_id() != -1:
            if not runs_for_the_first_time():
                return
        elif of.shares is not None and of.shares.between:
            of.shares.begin()
        try:
            self._add(output)
        except Exception as error:  # whatever a module puts out, its forward goes on
            what = str(error) if isinstance(error, Unreadable) else f"not read: {type(error).__name__}: {error}"
            self._sums.odd = f"its output is {what.splitlines()[0][:200]}"

    def _add(self, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None:
            raise Unreadable(f"a {type(output).__name__}, in which no tensor was found")
        if not tensor.is_floating_point():
            raise Unreadable(str(tensor.dtype).removeprefix("torch."))
        if not tensor.numel() or torch.is_inference_mode_enabled():
            return
        self._sums.add(tensor)
        if self._of.gradients and tensor.requires_grad:
            self._of.watch_gradient(self._sums, tensor)

    def _add_in_compiled_code(self, output: Any) -> None:
        tensor = None if _is_exporting() else first_tensor(output)
        if tensor is not None and tensor.is_floating_point() and tensor.layout is torch.strided and tensor.numel():
            self._sums.add(tensor)


class _GradientHook(Hook):
    """Hook that pools ∂L/∂output of one output, over all passes through it that a step is made of."""

    def __init__(self, of: Activations, sums: UnitStatistics) -> None:
        super().__init__()
        self._of, self._sums = of, sums
        self._row = of.row
        self._before: Tensor | None = None  # the sum over the passes of this row so far

    def __call__(self, *arguments: Any) -> None:
        of = self._of
        try:
            if self._row != of.row:
                self._row, self._before = of.row, None
            if not of.sampling or not of.accumulates():
                return
            (gradient,) = arguments
            with torch.no_grad():
                self._sums.add_delta(gradient, self._before)
                if torch._C._autograd._get_current_graph_task_keep_graph() or of.is_leaf():
                    g = entries(gradient)
                    self._before = g.clone() if self._before is None else self._before + g
        except Exception as error:  # whatever a gradient is, the pass goes on
            self._sums.odd = f"its gradient was not read: {type(error).__name__}: {error}".splitlines()[0][:200]


def first_tensor(output: Any, above: tuple[Any, ...] = ()) -> Tensor | None:
    """Return the output itself, or the first tensor in a tuple, list or mapping (of an LSTM: the sequence).

    Args:
        output: what a module puts out.
        above: the containers that it lies in; one may hold itself.

    Returns:
        None where there is no tensor.
    """
    if isinstance(output, Tensor):
        return output
    if any(output is container for container in above):
        return None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    inside = (*above, output)
    return next((found for part in parts if (found := first_tensor(part, inside)) is not None), None)


def _has_compiled() -> bool:
    """Return whether torch.compile has compiled anything in this process: the compiler is also imported for less."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["stats"]["unique_graphs"] > 0


class Activations(Listener):
    """Listener that samples activation scales while ``sampling`` is set; goes by rows after `follow`.

    The std is taken per unit over samples and positions, then the RMS over units.

    Args:
        modules: by name.
        gradients: record also δ = mean |∂L/∂activation| and the share of dead units, those that are 0 for every sample
            and position of a step.
        root: the model, whose mode tells training from evaluation (a frozen module in evaluation mode is part of the
            training step); without it each module's own.

    Attributes:
        sampled: whether they ever were, in a row.
        clears: whether a CUDA graph may add to the sums at any step.
        shares: sums of the forwards that are kept apart, None before `follow`.
    """

    def __init__(self, modules: Mapping[str, nn.Module], gradients: bool, root: nn.Module | None = None) -> None:
        self.names = list(modules)
        self.types = {name: type_before_parametrizations(module).__name__ for name, module in modules.items()}
        self.quantities = FULL_QUANTITIES if gradients else QUANTITIES
        self.gradients = gradients
        self.root = root
        self._sampling = True
        self.sampled = self.clears = False
        self._late: int | None = None
        self.shares: Shares | None = None
        self._compiled_before = _has_compiled()
        self._statistics = {name: UnitStatistics(module) for name, module in modules.items()}
        self._rows = ModuleRows(list(self._statistics.values()), gradients)
        known = {name: number_of_units(module) for name, module in modules.items()} if gradients else {}
        self._units = [(name, units) for name, units in known.items() if units and units <= LARGEST_MODULE]
        if any(p.is_cpu for module in modules.values() for p in module.parameters(recurse=False)):
            host_kernel("add_units")  # compiled now rather than in the first step
        self._seen = np.zeros(len(modules), dtype=bool)
        self._silences = np.zeros(len(modules), dtype=int)  # sampled rows since the last one with a number
        self._silent_since = np.zeros(len(modules), dtype=int)
        self.row = 0  # of the step that outputs are pooled for, counted
        self._pass = (-1, False)  # the latest backward pass, and whether it adds to gradients
        self._leaves: dict[tuple[int, int], tuple[Tensor, Any]] = {}  # outputs that outlive the step, and their hooks
        self._hooks = ModuleHooks()
        for name, module in modules.items():
            self._hooks.after_forward(module, _ForwardHook(self, self._statistics[name]))
            if not takes_hooks(module):
                self._statistics[name].odd = "made by torch.jit, which takes no hooks"

    @property
    def sampling(self) -> bool:
        """Whether outputs are pooled for the coming row. Between such rows no module has a hook.

        Hooks stay on until they were in a row, and wherever something is compiled: code compiled without them would
        never call them, and code compiled with them would be compiled again.
        """
        return self._sampling

    @sampling.setter
    def sampling(self, on: bool) -> None:
        self._sampling = on
        compiled = _has_compiled()
        if self._hooks.paused and compiled and not self._compiled_before and self._late is None:
            self._late = self._timeline.step  # what was compiled had no hooks
        if on or (self._hooks.paused and compiled):
            self._hooks.resume()
        elif not self._hooks.paused and self.sampled and not compiled:
            self._hooks.pause()

    @property
    def unseen(self) -> dict[str, str]:
        """Modules that no number was recorded of so far, and why."""
        why = _NOT_SEEN + (_OR_COMPILED if self._compiled_before else "")
        unseen = {name: sums.odd or why for name, sums in self._statistics.items() if not sums.states}
        if self.gradients and any(sums.compiled for sums in self._statistics.values()):
            unseen["activation_gradient_mean_abs"] = "compiled code is not given backward hooks, which would break it"
        return unseen

    @property
    def unit_names(self) -> list[str]:
        """Name "module:index" of each number of `unit_scales`."""
        return [f"{name}:{i}" for name, units in self._units for i in range(units)]

    def unit_scales(self, device: torch.device) -> Tensor:
        """Compute mean |a| of each unit of this step so far, module after module.

        Of the modules whose type tells the number of their units, at most `LARGEST_MODULE` of them.

        Returns:
            [units] float32; NaN where none was seen.
        """
        parts = [self._statistics[name].states.get(units) for name, units in self._units]
        if not parts:
            return zeros((0,), device)
        sums = [
            unknown((2, units), device) if state is None else state[0:4:3].to(device, non_blocking=True)
            for state, (_, units) in zip(parts, self._units, strict=True)
        ]
        entries, magnitudes = torch.cat(sums, 1)
        return torch.div(magnitudes, entries).float()

    def states(self) -> list[Tensor]:
        """List the tensors that outputs are added to."""
        return [state for sums in self._statistics.values() for state in sums.states.values()]

    def settle(self) -> bool:
        """Leave out forwards that do not belong to this step; False if that cannot be told."""
        return self.shares is None or self.shares.settle()

    def take(self, device: torch.device) -> Tensor:
        """Return the row of this step, [quantities, M] float32, NaN for modules that were not called; start afresh."""
        row = self._rows.make(device)
        self.clear()
        return row

    def clear(self) -> None:
        """Discard what this step has added up so far."""
        if self.shares is not None:
            self.shares.forget()
        self.row += 1
        self._forget_leaves()
        every = self._statistics.values()
        tensors = [t for sums in every for t in (*sums.states.values(), *([] if sums.delta is None else [sums.delta]))]
        if tensors:
            torch._foreach_zero_(tensors)

    def watch_gradient(self, sums: UnitStatistics, output: Tensor) -> None:
        """Add up ∂L/∂output when a backward pass reaches it.

        A leaf (a parameter that is put out) is there for ever, and so would be a hook at every forward: one a row.
        """
        if not output.is_leaf:
            output.register_hook(_GradientHook(self, sums))
        elif (id(sums), id(output)) not in self._leaves:
            handle = output.register_hook(_GradientHook(self, sums))
            self._leaves[id(sums), id(output)] = output, handle

    def _forget_leaves(self) -> None:
        for _, handle in self._leaves.values():
            handle.remove()
        self._leaves = {}

    def accumulates(self) -> bool:
        """Return whether the running backward pass adds to the gradients of leaves; `torch.autograd.grad` does not."""
        task = torch._C._current_graph_task_id()
        if self._pass[0] != task:
            self._pass = task, accumulates_below(torch._C._current_autograd_node())
        return self._pass[1]

    @staticmethod
    def is_leaf() -> bool:
        """Return whether the gradient that a hook is being given is a leaf's."""
        return not torch._C._current_autograd_node().next_functions

    def detach(self) -> None:
        """Remove the hooks and stop sampling."""
        self._hooks.remove()
        self._forget_leaves()
        self._sampling = False

    # -- rows -------------------------------------------------------------------------------------

    def follow(
        self, timeline: Timeline, buffer: RowBuffer, forwards: Forwards, cleared: Callable[[], list[bool | None]]
    ) -> None:
        """Sample the steps of a recording. ``cleared``: see `Shares`."""
        self._timeline, self._buffer = timeline, buffer
        self.shares = Shares(self.states, cleared)
        forwards.ended = self._forward_ended

    def _forward_ended(self, output: Any) -> None:
        """Note the end of an outermost forward of the model."""
        if self.sampling and self.shares is not None and not self._buffer.stopped and not self._buffer.paused:
            self.shares.ended(output)

    def fields(self) -> dict[str, Field]:
        """Return the fields of activations and, with gradients, of units."""
        found = {"activations": Field((len(self.quantities), len(self.names)), "mean")}  # each rank has its own batch
        if self.gradients:
            found["units"] = Field((len(self.unit_names),), "mean")
        return found

    def pass_ended(self, task: int) -> None:
        """Note which forwards the pass has used."""
        if self.shares is not None:
            self.shares.passed(task)

    def row_begins(self, row: HostRow) -> None:
        """Write the activations of this step, if it is sampled."""
        if self.sampling:
            home = self._buffer.home
            row.sampled, self.sampled = self.settle(), True
            if self.gradients:
                home.view("units", row.number).copy_(self.unit_scales(home.device))
            home.view("activations", row.number).copy_(self.take(home.device))

    def row_repeated(self, row: HostRow) -> None:
        """Sample a replayed row only where the cadence does."""
        row.sampled = row.sampled and self._timeline.samples("activations")

    def row_begun(self) -> None:
        """Start afresh, and decide whether the coming step is sampled."""
        if self.sampling or self.clears:
            self.clear()  # of forwards since the row was taken
        coming, cadences = self._timeline.step + 1, self._timeline.cadences
        self.sampling = cadences["rows"].at(coming) and cadences["activations"].at(coming)

    def closure_again(self) -> None:
        """Discard the forwards of the closure's later calls."""
        if self.sampling:
            self.clear()

    def variables(self, rows: FetchedRows) -> Block:
        """Compute the variables along ``module`` and ``unit``; NaN in rows that were not sampled."""
        sampled = np.array([row.sampled for row in rows.hosts])
        self._note_calls(rows)
        table = np.where(sampled[:, None, None], rows.home["activations"], np.float32(np.nan))
        found: Block = {name: table[:, i] for i, name in enumerate(self.quantities)}
        if "units" in rows.home and rows.home["units"].shape[1]:  # else no module whose units can be told
            found["activation_unit_mean_abs"] = np.where(sampled[:, None], rows.home["units"], np.float32(np.nan))
        return found

    def _note_calls(self, rows: FetchedRows) -> None:
        """Note which modules were called in these rows: the share of zeros is a number then, whatever they put out."""
        zeros_at = self.quantities.index("activation_zero_fraction")
        for row, table in zip(rows.hosts, rows.home["activations"], strict=True):
            if row.sampled:
                called = ~np.isnan(table[zeros_at])
                begins = ~called & (self._silences == 0)
                self._silent_since[begins] = row.step
                self._silences = np.where(called, 0, self._silences + 1)
                self._seen |= called

    def capture(self) -> dict[str, Any]:
        """Return modules and forwards that were not seen, or left out."""
        found: dict[str, Any] = {"modules_not_seen": self.unseen}
        silent = self._seen & (self._silences >= SILENT_ROWS)
        if silent.any():
            since = zip(self.names, self._silent_since.tolist(), silent, strict=True)
            found["modules_silent"] = {name: f"{_SILENT} {step}" for name, step, is_silent in since if is_silent}
        if self._late is not None:
            found["compiled_late"] = f"{_COMPILED_LATE} {self._late}"
        if self.shares is not None and self.shares.left_out:
            found["forwards_left_out"] = f"{self.shares.left_out} {LEFT_OUT}"
        if self.shares is not None and self.shares.unclear:
            found["forwards_not_told_apart"] = f"{self.shares.unclear} {NOT_TOLD_APART}"
        return found
