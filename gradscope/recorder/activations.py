"""Activation scales: forward hooks on modules, pooled over the micro-batches of a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gradscope.recorder.module_rows import FULL_QUANTITIES, QUANTITIES, ModuleRows
from gradscope.recorder.pools import Pool, host_kernel, number_of_units

__all__ = ["FULL_QUANTITIES", "LARGEST_MODULE", "QUANTITIES", "Activations", "Hook", "first_tensor"]

#: Units up to which a module's units are told one by one.
LARGEST_MODULE = 1024

_NOT_SEEN = "no forward of it in training mode, with gradients, was seen"
_OR_COMPILED = "; a model that was compiled and called before the recording began does not see the hooks"


class Hook:
    """A hook that stays with its recording: a copied or pickled model carries one that does nothing."""

    def __init__(self, act: Callable[..., Any] | None = None) -> None:
        self._act = act

    def __call__(self, *arguments: Any) -> Any:
        return None if self._act is None else self._act(*arguments)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class _ForwardHook(Hook):
    """Pools what its module puts out, at the time when it is put out: what follows may write over it."""

    def __init__(self, of: Activations, pool: Pool) -> None:
        super().__init__()
        self._of, self._pool = of, pool

    def __call__(self, *arguments: Any) -> None:
        of = self._of
        if not of.sampling:
            return
        module, _, output = arguments
        if not (module if of.root is None else of.root).training or not torch.is_grad_enabled():
            return  # an evaluation between two steps is not part of either
        tensor = first_tensor(output)
        if tensor is None or not tensor.is_floating_point() or not tensor.ndim or not tensor.numel():
            return
        if torch.compiler.is_compiling():
            self._pool.add(tensor)
            return
        if torch._C._current_graph_task_id() != -1:
            if not _runs_for_the_first_time():
                return
        elif of.shares is not None and of.shares.between:
            of.shares.begin()
        self._pool.add(tensor)
        if of.gradients and tensor.requires_grad:
            tensor.register_hook(self._pool.add_delta)


def first_tensor(output: Any) -> Tensor | None:
    """The output itself, or the first tensor in a tuple, list or mapping (of an LSTM: the sequence)."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def _has_compiled() -> bool:
    """Whether torch.compile has compiled anything in this process: the compiler is also imported for less."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["stats"]["unique_graphs"] > 0


def _runs_for_the_first_time() -> bool:
    """Whether a forward inside a backward has not been seen before.

    Checkpointing runs forwards again. Without reentry the first run was a common forward; with it, or in any other
    autograd function that recomputes, the first run was without gradients and did not count.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "unpack_hook":
            return False
        if frame.f_code.co_name == "backward":
            return True
        frame = frame.f_back
    return False


class Shares(Protocol):
    """What `gradscope.recorder.forwards.Shares` is to activations."""

    between: bool

    def begin(self) -> None: ...
    def settle(self) -> bool: ...
    def forget(self) -> None: ...


class Activations:
    """Forward hooks on these modules. Samples only while ``sampling`` is set.

    ``modules``: by name. ``gradients``: also δ = mean |∂L/∂activation| and the share of dead units, those that
    are 0 for every sample and position of a step. ``root``: the model, whose mode tells training from
    evaluation (a frozen module in evaluation mode is part of the training step); without it each module's own.

    The std is taken per unit over samples and positions, then the RMS over units.
    """

    def __init__(self, modules: Mapping[str, nn.Module], gradients: bool, root: nn.Module | None = None) -> None:
        self.names = list(modules)
        self.types = {name: type_before_parametrizations(module).__name__ for name, module in modules.items()}
        self.quantities = FULL_QUANTITIES if gradients else QUANTITIES
        self.gradients = gradients
        self.root = root
        self.sampling = True
        self.shares: Shares | None = None  # where forwards are told apart
        self._compiled_before = _has_compiled()
        self._pools = {name: Pool(module) for name, module in modules.items()}
        self._rows = ModuleRows(list(self._pools.values()), gradients)
        known = {name: number_of_units(module) for name, module in modules.items()} if gradients else {}
        self._units = [(name, units) for name, units in known.items() if units and units <= LARGEST_MODULE]
        if any(p.is_cpu for module in modules.values() for p in module.parameters(recurse=False)):
            host_kernel("add_units")  # compiled now rather than in the first step
        self._hooks = [
            module.register_forward_hook(_ForwardHook(self, self._pools[name])) for name, module in modules.items()
        ]

    @property
    def unseen(self) -> dict[str, str]:
        """The modules that no number was recorded of so far, and why."""
        why = _NOT_SEEN + (_OR_COMPILED if self._compiled_before else "")
        unseen = {name: why for name, pool in self._pools.items() if not pool.states}
        if self.gradients and any(pool.compiled for pool in self._pools.values()):
            unseen["activation_gradient_mean_abs"] = "compiled code is not given backward hooks, which would break it"
        return unseen

    @property
    def unit_names(self) -> list[str]:
        """ "module:index" of each number of `unit_scales`."""
        return [f"{name}:{i}" for name, units in self._units for i in range(units)]

    def unit_scales(self, device: torch.device) -> Tensor:
        """Mean |a| of each unit of this step so far, [units] float32, module after module; NaN where none was seen.

        Of the modules whose type tells the number of their units, at most `LARGEST_MODULE` of them.
        """
        parts = []
        for name, units in self._units:
            state = self._pools[name].states.get(units)
            unknown = torch.full((units,), float("nan"), device=device)
            parts.append(unknown if state is None else (state[3] / state[0]).float().to(device, non_blocking=True))
        return torch.cat(parts) if parts else torch.empty(0, device=device)

    def states(self) -> list[Tensor]:
        """What outputs are added to."""
        return [state for pool in self._pools.values() for state in pool.states.values()]

    def settle(self) -> bool:
        """Leave out forwards that do not belong to this step; False if that cannot be told."""
        return self.shares is None or self.shares.settle()

    def take(self, device: torch.device) -> Tensor:
        """The row of this step, [quantities, M] float32, NaN for modules that were not called; starts afresh."""
        row = self._rows.make(device)
        self.clear()
        return row

    def clear(self) -> None:
        """Forget what this step has added up so far."""
        if self.shares is not None:
            self.shares.forget()
        pools = self._pools.values()
        sums = [s for pool in pools for s in (*pool.states.values(), *([] if pool.delta is None else [pool.delta]))]
        if sums:
            torch._foreach_zero_(sums)

    def detach(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
