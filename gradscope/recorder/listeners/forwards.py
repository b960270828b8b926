"""Tell the forwards that a step is made of, those whose gradients it uses, from others in between.

Between two steps a loop may run forwards in training mode that it does not train on: a batch that is skipped, one that
runs out of memory, a probe, an evaluation. Each outermost forward of the model is followed through its outputs: a hook
there is called by the backward passes that reach it, and lives as long as its graph. What was reached by a pass that
adds to gradients belongs to the step; a graph that is gone, and was never reached, to none.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.torch_utils.module_hooks import Hook, ModuleHooks

#: Tensors of one output that are followed, and how deep they may lie in it.
FOLLOWED, DEPTH = 16, 4


class Fate(IntEnum):
    """What is known of a forward, the better the later."""

    GONE = 0  # its graph is, and no backward pass has reached it
    WAITING = 1  # its graph is there
    REACHED = 2  # by a pass that may have been about something else than parameters
    USED = 3  # by a pass that adds to the gradients of parameters, or keeps its own graph to be differentiated


class Call:
    """One outermost forward."""

    __slots__ = ("_hook", "task", "used")

    def __init__(self) -> None:
        self.task = -1  # the latest backward pass that reached it
        self.used = False
        self._hook: weakref.ref[_Reached] | None = None

    def follow(self, output: Any) -> None:
        """Note the passes that reach this output; None: the forward has failed."""
        hook = _Reached(self)
        tensors = [t for t in _tensors(output) if t.grad_fn is not None][:FOLLOWED]
        for tensor in tensors:
            tensor.register_hook(hook)
        if tensors or output is None:
            self._hook = weakref.ref(hook)

    @property
    def fate(self) -> Fate:
        """What is known of it now."""
        if self.used:
            return Fate.USED
        if self.task != -1:
            return Fate.REACHED
        return Fate.GONE if self._hook is not None and self._hook() is None else Fate.WAITING


class _Reached(Hook):
    """Hook on the outputs of a forward; held by their graph alone."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        self._call.task = torch._C._current_graph_task_id()
        if torch.is_grad_enabled():
            self._call.used = True


def _tensors(output: Any, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if not output.is_nested and output.requires_grad:
            yield output
        return
    if depth == DEPTH:
        return
    parts: Any = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, list | tuple):
        parts = output
    elif dataclasses.is_dataclass(output):
        parts = vars(output).values() if hasattr(output, "__dict__") else ()
    for part in parts:
        yield from _tensors(part, depth + 1)


class Forwards:
    """Detector of the end of an outermost forward: of the model, or of its parts where it is never called itself.

    Attributes:
        count: forwards in training mode, with gradients.
        ended: called with the output, None where it failed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self.ended: Callable[[Any], None] = lambda output: None
        self._model = model
        self._hooks = ModuleHooks()
        self._hooks.after_forward(model, Hook(self._see), always_call=True)
        self._parts = [self._hooks.after_forward(part, Hook(self._see), always_call=True) for part in _called(model)]
        self._parts.append(self._hooks.before_forward(model, Hook(self._is_called)))

    def _is_called(self, module: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_compiling():
            while self._parts:
                self._parts.pop().remove()

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not self._model.training or not torch.is_grad_enabled():
            return
        if torch._C._current_graph_task_id() != -1 or torch._C._functorch.maybe_current_level() is not None:
            return
        if torch._C._get_tracing_state() is None:
            self.count += 1
            self.ended(output)

    def detach(self) -> None:
        """Remove the hooks."""
        self._hooks.remove()


def _called(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a model that a loop may call; lists of modules are not called, but what is in them."""
    for part in model.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from _called(part)
        else:
            yield part


#: States, what they held, and of which forward.
Share = tuple[list[Tensor], list[Tensor], Call]


class Shares:
    """Sums of a step, apart for the forwards that are not known to belong to it.

    Args:
        states: returns the tensors that are being added to, [STATE_ROWS, U] each.
        cleared: returns of each part of the model whether the gradients of the passes so far were thrown away, None
            where that is not known.

    Attributes:
        between: the next output is that of another forward.
        left_out: forwards that belonged to no step, so far.
        unclear: rows whose forwards could not be told apart.
    """

    #: Forwards that wait for their backward pass and are kept apart; what follows is added to the last of them.
    MOST = 8

    def __init__(self, states: Callable[[], list[Tensor]], cleared: Callable[[], list[bool | None]]) -> None:
        self.between = False  # the next output is that of another forward
        self.left_out = 0
        self.unclear = 0  # rows
        self._cleared = cleared
        self._doubtful = False  # whether gradients of this row were thrown away
        self._states = states
        self._calls: list[Call] = []  # in the states
        self._before: tuple[list[Tensor], list[Tensor], int] | None = None  # states, what they held, of how many
        self._aside: list[Share] = []

    def ended(self, output: Any) -> None:
        """Begin to follow an outermost forward that has ended with this output; None: it has failed."""
        if self.between and output is None:  # it failed before any of its modules put out anything
            return
        call = Call()
        call.follow(output)
        self._calls.append(call)
        self.between = True

    def begin(self) -> None:
        """Prepare the states for another forward.

        Sums of forwards that no pass can reach any more are dropped, those of one that may still be reached are kept
        apart; where all so far are known to belong to the step, what they add up to is noted (`_part` goes back to it).
        """
        self.between = False
        self._aside = self._without_gone(self._aside)
        self._part()
        fates = [call.fate for call in self._calls]
        if not fates:
            return
        used = all(fate is Fate.USED for fate in fates)
        cleared = self._cleared() if used else []
        self._doubtful |= None in cleared
        if all(fate is Fate.GONE for fate in fates) or (used and all(cleared)):
            self.left_out += len(fates)
            self._start_afresh()
        elif used:
            states = self._states()
            self._before = states, [state.clone() for state in states], len(fates)
        elif len(fates) == 1 and len(self._aside) < self.MOST:
            states = self._states()
            self._aside.append((states, [state.clone() for state in states], self._calls[0]))
            self._start_afresh()

    def passed(self, task: int) -> None:
        """Note which forwards a backward pass that adds to gradients has used."""
        for call in (*self._calls, *(share[2] for share in self._aside)):
            call.used |= call.task == task

    def settle(self) -> bool:
        """Leave in the states what belongs to the step; False if that is not known."""
        self._part()
        shares, self._aside = self._aside, []
        calls, self._calls, self._before, self.between = self._calls, [], None, False
        fates = {call.fate for call in calls}
        best = max([*fates, *(share[2].fate for share in shares)], default=Fate.USED)
        if best >= Fate.REACHED:  # otherwise nothing of them is known, and all count
            shares = self._without_gone(shares)
        if best is Fate.USED:  # those were about something else
            self.left_out += sum(share[2].fate is Fate.REACHED for share in shares)
        clear = (len(fates) < 2 or best < Fate.REACHED) and not self._doubtful
        self._doubtful = False
        self.unclear += not clear
        if shares:
            self._merge(shares, min(fates, default=Fate.USED), best)
        return clear

    def forget(self) -> None:
        """Begin a new row: its states are zeroed by the caller."""
        self._aside, self._calls, self._before, self._doubtful = [], [], None, False

    def _start_afresh(self) -> None:
        self._calls, self._before = [], None
        if states := self._states():
            torch._foreach_zero_(states)

    def _part(self) -> None:
        """Separate the latest forward's sums from what was held before it, unless it is known to belong there too."""
        if self._before is None:
            return
        states, held, count = self._before
        if len(self._calls) == count + 1 and self._calls[-1].fate is Fate.GONE:
            self.left_out += 1
            self._calls.pop()
            known = {id(state): value for state, value in zip(states, held, strict=True)}
            for state in self._states():
                state.copy_(known[id(state)]) if id(state) in known else state.zero_()
        elif len(self._calls) == count + 1 and self._calls[-1].fate is not Fate.USED:
            for state, before in zip(states, held, strict=True):
                subtract_sums(state, before)
            self._aside.append((states, held, self._calls[0]))
            self._calls = self._calls[-1:]
        self._before = None

    def _without_gone(self, shares: list[Share]) -> list[Share]:
        kept = [share for share in shares if share[2].fate is not Fate.GONE]
        self.left_out += len(shares) - len(kept)
        return kept

    def _merge(self, shares: Sequence[Share], fate: Fate, best: Fate) -> None:
        """Put into each state the sums of the forwards of the best fate in which its module was called at all.

        Args:
            shares: sums that were kept apart.
            fate: of what the states hold now.
            best: the best fate of all.
        """
        for state in self._states():
            parts = [(fate, state.clone())] if not (fate is Fate.GONE and best >= Fate.REACHED) else []
            for states, held, call in shares:
                parts += [(call.fate, held[i]) for i, known in enumerate(states) if known is state]
            whole = torch.zeros_like(state)
            for level in sorted({fate for fate, _ in parts}, reverse=True):
                mine = torch.zeros_like(state)
                for _, part in (p for p in parts if p[0] is level):
                    add_sums(mine, part)
                whole = torch.where(whole[0] > 0, whole, mine)
            state.copy_(whole)


def add_sums(state: Tensor, other: Tensor) -> None:
    """Add the sums of other outputs, [STATE_ROWS, U]: entries, mean, M2, Σ|a|, non-zeros of each unit."""
    entries = state[0] + other[0]
    share = torch.where(entries > 0, other[0] / entries, 0)
    distance = other[1] - state[1]
    state[2].add_(other[2] + distance * distance * state[0] * share)
    state[1].add_(distance * share)
    state[0].copy_(entries)
    state[3:].add_(other[3:])


def subtract_sums(state: Tensor, other: Tensor) -> None:
    """Undo `add_sums`, [STATE_ROWS, U]: leave the sums without these."""
    entries = state[0] - other[0]
    mean = torch.where(entries > 0, (state[0] * state[1] - other[0] * other[1]) / entries, 0)
    distance = other[1] - mean
    share = torch.where(entries > 0, other[0] / state[0], 0)
    state[2].copy_(torch.where(entries > 0, state[2] - other[2] - distance * distance * entries * share, 0))
    state[1].copy_(mean)
    state[0].copy_(entries)
    state[3:].sub_(other[3:])
