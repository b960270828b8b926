"""Reduce the sums of all units to one row of numbers of all modules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.quantities import of_modules
from gradscope.recorder.kernels.unit_statistics import UnitStatistics, host_kernel
from gradscope.recorder.memory import CPU, on_device, unknown, zeros

QUANTITIES = of_modules("standard")
#: What gradients add: δ = mean |∂L/∂activation|, and the share of units that are 0 for every sample and position.
FULL_QUANTITIES = of_modules("full")


class ModuleRows:
    """Maker of the rows of some modules. What depends only on the modules' widths is laid out once."""

    def __init__(self, modules: Sequence[UnitStatistics], gradients: bool) -> None:
        self._modules = modules
        self._quantities = FULL_QUANTITIES if gradients else QUANTITIES
        self._states: list[Tensor] = []
        self._kernel: Callable[..., None] | None = None
        self._tables: list[NDArray[np.int64]] = []  # addresses of the states, their units, their modules
        self._addresses: list[int] = []
        self._owner = zeros((0,), CPU, torch.int64)  # the module of each unit

    def make(self, device: torch.device) -> Tensor:
        """Compute a row, [quantities, modules] float32; NaN for a module without outputs. Nothing synchronises."""
        states = [state for module in self._modules for state in module.states.values()]
        if not states:
            return unknown((len(self._quantities), len(self._modules)), device)
        if len(states) != len(self._states) or not all(map(operator.is_, states, self._states)):
            self._lay_out(states, device)
        rows = unknown((len(FULL_QUANTITIES), len(self._modules)), device)
        if self._kernel is not None:
            self._kernel(*self._addresses, len(states), len(self._modules), rows.data_ptr())
        else:
            self._make_with_torch(rows)
        if self._quantities == QUANTITIES:
            return rows[: len(QUANTITIES)]
        rows[3] = self._deltas(device)
        return rows

    def _lay_out(self, states: list[Tensor], device: torch.device) -> None:
        self._states = states
        modules = [i for i, module in enumerate(self._modules) for _ in module.states]
        units = [state.shape[1] for state in states]
        self._kernel = host_kernel("module_rows") if device.type == "cpu" and all(s.is_cpu for s in states) else None
        # Kept, for the kernel is told addresses only.
        self._tables = [np.array(table) for table in ([s.data_ptr() for s in states], units, modules)]
        self._addresses = [table.ctypes.data for table in self._tables]
        self._owner = on_device(np.repeat(modules, units).tolist(), device, torch.int64)

    def _make_with_torch(self, rows: Tensor) -> None:
        """Compute the row with torch: twin of `gradscope.recorder.kernels.host_units.module_rows`."""
        everything = torch.cat([state.to(rows.device, non_blocking=True) for state in self._states], 1)
        entries, _, m2, magnitudes, nonzero = everything
        seen = entries > 0
        dead = seen & (nonzero == 0)
        variance = torch.where(seen, m2 / entries, 0)
        columns = torch.stack((entries, magnitudes, nonzero, variance, seen.to(entries), dead.to(entries)))
        sums = zeros((len(columns), rows.shape[1]), rows.device, columns.dtype)
        total, a, alive, squares, units, dead_units = sums.index_add_(1, self._owner, columns)
        rows[:3] = torch.stack((a / total, (squares / units).sqrt(), 1 - alive / total))
        rows[4] = dead_units / units

    def _deltas(self, device: torch.device) -> Tensor:
        nothing = zeros((2,), device)
        sums = [nothing if m.delta is None else m.delta.to(device, non_blocking=True) for m in self._modules]
        deltas: Tensor = torch.div(*torch.stack(sums, 1))
        return deltas
