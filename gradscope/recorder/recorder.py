"""The instrument on a training loop: optimizer step hooks, activation hooks, and the buffer of rows.

    for x, y in loader:
        loss = criterion(model(x), y)      # forward hooks: activations of the coming row
        optimizer.zero_grad()
        loss.backward()                    # sentinel hook: what `log` is told belongs to the coming row
        optimizer.step()                   # global pre-hook: the row (gradients, weights before the update)
        run.log(loss=loss)                 # joins that row

A row stays open until the next one begins, so that `log` can still reach it. Rows leave in blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradscope.recorder.activations import Activations, Hook
from gradscope.recorder.rows import Block, HostRow, PenaltyTerm, group_variables, parameter_variables
from gradscope.recorder.statistics import QUANTITIES, norms
from gradscope.recorder.table import TablePlan
from gradscope.types import InputError

#: Rows in a block that leaves the device at once.
BLOCK_ROWS = 16


@dataclass(frozen=True)
class Preset:
    """What a preset records. ``activations_every``: recorded rows from one sample to the next, 0: never."""

    quantities: tuple[str, ...]
    activations_every: int
    full: bool = False


PRESETS = {
    "cheap": Preset(("gradient_l1", "gradient_norm", "weight_l1", "weight_norm"), 0),
    "standard": Preset(QUANTITIES, 10),
    "full": Preset(QUANTITIES, 1, full=True),
}


@dataclass
class PenaltyProbe:
    """What the recorder has to know of penalties, without knowing any.

    ``strengths()``: λ of each term at the coming step. ``measure``: the columns and Σ|∂Ω/∂w| of the
    parameters where it does not follow from other sums. ``inside_loss``: what the user's own penalty
    inside the loss adds to each gradient, and to the loss, to be taken off again.
    """

    terms: Sequence[PenaltyTerm]
    strengths: Callable[[], tuple[float, ...]]
    measure: Callable[[Sequence[Tensor]], tuple[list[int], list[Tensor]]] | None = None
    inside_loss: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    value_inside_loss: Callable[[], Tensor] | None = None


@dataclass
class _Pending:
    """Rows on the device that have not left yet."""

    tables: list[Tensor] = field(default_factory=list)
    activations: list[Tensor | None] = field(default_factory=list)
    updates: list[Tensor | None] = field(default_factory=list)
    hosts: list[HostRow] = field(default_factory=list)
    scalars: list[dict[str, Tensor | float]] = field(default_factory=list)
    inside_loss: list[Tensor] = field(default_factory=list)


def plain_name(model: nn.Module, name: str) -> str:
    """The name as the unwrapped model has it (DistributedDataParallel and torch.compile add prefixes)."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    inner = getattr(model, "_orig_mod", model)
    wrapped = isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return ".".join(parts[1:] if wrapped and parts[:1] == ["module"] else parts)


class Recorder:
    """Hooks on one model and its optimizers; hands blocks of finished rows to ``sink``."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        parameters: Mapping[str, Tensor],
        probe: PenaltyProbe,
        sink: Callable[[Block], None],
        *,
        preset: str = "standard",
        every: int = 1,
        before_step: Callable[[int], None] | None = None,
        group_counts: Sequence[int] | None = None,
    ) -> None:
        self.preset = PRESETS[preset]
        self.names = list(parameters)
        self.weights = list(parameters.values())
        self.numel = np.array([w.numel() for w in self.weights], dtype=np.float64)
        self.step = -1
        self.epoch = -1
        self._optimizers = {id(o): o for o in optimizers}
        self._columns = _columns(optimizers, self.weights)
        counts = group_counts or [len(o.param_groups) for o in optimizers]
        self._groups = [group for o, n in zip(optimizers, counts, strict=True) for group in o.param_groups[:n]]
        self._plans: dict[int, TablePlan] = {}
        self.probe = probe
        self._sink = sink
        self._before_step = before_step
        self._every = every
        self._rows = _Pending()
        self._open: set[int] = set()
        self._later: dict[str, Tensor | float] = {}
        self._fresh_backward = False
        self._start = time.perf_counter()
        self._before_update: tuple[list[int], list[Tensor]] | None = None
        modules = {
            plain_name(model, name) or type(module).__name__: module
            for name, module in model.named_modules()
            if not any(True for _ in module.children())
        }
        self.activations = Activations(modules, self.preset.full, model) if self.preset.activations_every else None
        self.quantities = self._quantities()
        self._hooks = [
            register_optimizer_step_pre_hook(self._on_pre_step),
            register_optimizer_step_post_hook(self._on_post_step),
        ]
        self._sentinel: Any = None
        self._watch_backward([w for w in self.weights if w.requires_grad][-1])

    def _quantities(self) -> tuple[str, ...]:
        needed = self.preset.quantities
        if "weight_nonzero" not in needed and any(t.shares and t.shares[1] for t in self.probe.terms):
            needed = (*needed, "weight_nonzero")
        return needed

    def _watch_backward(self, parameter: Tensor) -> None:
        """One hook tells that a backward has run since the last step; which parameter does not matter."""
        if self._sentinel is not None:
            self._sentinel.remove()
        self._sentinel = parameter.register_post_accumulate_grad_hook(Hook(self._on_backward))

    def _on_backward(self, parameter: Tensor) -> None:
        self._fresh_backward = True

    # -- a step -----------------------------------------------------------------------------------

    def _on_pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if id(optimizer) not in self._optimizers:
            return None
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
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

        return ((args[0], observed), {}) if len(args) > 1 else (args, {**kwargs, "closure": observed})

    def _observe(self, optimizer: Optimizer) -> None:
        """The row of this step, or this optimizer's share of it."""
        with torch.no_grad():
            if not self._open or id(optimizer) in self._open:
                self._begin_row()
            self._open.add(id(optimizer))
            self._fresh_backward = False
            if self.step % self._every == 0:
                self._measure(optimizer)

    def _begin_row(self) -> None:
        self._open.clear()
        if len(self._rows.hosts) >= BLOCK_ROWS:
            self.drain()
        if self._before_step is not None:
            self._before_step(self.step + 1)
        self.step += 1
        scalars, self._later = (self._later if self._fresh_backward else {}), {}
        if self.step % self._every:
            if self.activations is not None:
                self.activations.clear()  # of the forwards of a step that is not recorded
            return
        rows = self._rows
        rates = tuple([float(group["lr"]) for group in self._groups])
        rows.hosts.append(
            HostRow(self.step, self.epoch, time.perf_counter() - self._start, self.probe.strengths(), rates)
        )
        rows.scalars.append(scalars)
        if self.probe.value_inside_loss is not None:
            rows.inside_loss.append(self.probe.value_inside_loss())
        rows.tables.append(
            torch.full((len(self.quantities) + 1, len(self.weights)), float("nan"), device=self.weights[0].device)
        )
        rows.updates.append(None)
        sampled = self.activations is not None and self.activations.sampling
        rows.activations.append(self.activations.take(self.weights[0].device) if self.activations and sampled else None)
        if self.activations is not None:
            following = self.step // self._every + 1
            self.activations.sampling = following % self.preset.activations_every == 0

    def _measure(self, optimizer: Optimizer) -> None:
        columns = self._columns[id(optimizer)]
        if not columns:
            return  # none of its parameters is recorded
        weights = [self.weights[i] for i in columns]
        gradients: list[Tensor | None] = [w.grad for w in weights]
        if self.probe.inside_loss is not None:
            extra = self.probe.inside_loss(weights)
            gradients = [g if g is None else g - e for g, e in zip(gradients, extra, strict=True)]
        if id(optimizer) not in self._plans:
            self._plans[id(optimizer)] = TablePlan(weights, self.quantities)
        table = torch.empty(len(self.quantities), len(weights), device=self.weights[0].device)
        self._plans[id(optimizer)](weights, gradients, table)
        self._rows.tables[-1][:-1, columns] = table
        if self.probe.measure is not None:
            where, sizes = self.probe.measure(self.weights)
            self._rows.tables[-1][-1, where] = torch.stack(sizes)
        if self.preset.full:
            self._before_update = (columns, [w.detach().clone() for w in weights])
        self._keep_sentinel(weights, gradients)

    def _keep_sentinel(self, weights: list[Tensor], gradients: list[Tensor | None]) -> None:
        """If the watched parameter took no part in this step, watch one that did."""
        if gradients[-1] is None:
            active = [w for w, g in zip(weights, gradients, strict=True) if g is not None]
            if active:
                self._watch_backward(active[-1])

    def _on_post_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimizer) not in self._optimizers:
            return
        self._fresh_backward = False  # of a closure that was called more than once
        if self._before_update is None:
            return
        columns, before = self._before_update
        self._before_update = None
        with torch.no_grad():
            moved = torch._foreach_sub([self.weights[i].detach() for i in columns], before)
            row = torch.full((len(self.weights),), float("nan"), device=self.weights[0].device)
            row[columns] = torch.stack(norms(moved, "l1"))
            self._rows.updates[-1] = row

    # -- scalars ----------------------------------------------------------------------------------

    def log(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Scalars of the latest backward's step: of the coming row before its step, else of the last."""
        values = {name: _scalar(name, value) for name, value in scalars.items()}
        if self._fresh_backward or self.step < 0:
            self._later.update(values)
            self._fresh_backward = True
        elif self.step % self._every == 0 and self._rows.scalars:
            self._rows.scalars[-1].update(values)

    # -- leaving the device -----------------------------------------------------------------------

    def drain(self) -> None:
        """Hand all rows to the sink, as float32 host arrays."""
        rows, self._rows = self._rows, _Pending()
        if not rows.hosts:
            return
        table = torch.stack(rows.tables).cpu().numpy()
        strengths = np.array([row.strengths for row in rows.hosts], dtype=np.float64).reshape(len(table), -1)
        block: Block = {
            "step": np.array([row.step for row in rows.hosts], dtype=np.int64),
            "epoch": np.array([row.epoch for row in rows.hosts], dtype=np.int32),
            "time": np.array([row.time for row in rows.hosts], dtype=np.float64),
            "skipped": np.zeros(len(rows.hosts), dtype=np.int8),
        }
        block |= group_variables(rows.hosts, self.probe.terms, len(rows.hosts[0].learning_rates))
        names = (*self.quantities, "penalty_l1")
        block |= parameter_variables(table, names, self.numel, strengths, self.probe.terms)
        if self.preset.full:
            block["update_mean_abs"] = (_stacked(rows.updates, self.numel.shape) / np.maximum(self.numel, 1)).astype(
                np.float32
            )
        if self.activations is not None:
            labels = self.activations.quantities
            sampled = _stacked(rows.activations, (len(labels), len(self.activations.names)))
            block |= {name: sampled[:, i].astype(np.float32) for i, name in enumerate(labels)}
        block |= _scalar_columns(rows.scalars)
        if rows.inside_loss and "loss" in block:
            block["loss"] = block["loss"] - torch.stack(rows.inside_loss).float().cpu().numpy()
        self._sink(block)

    def detach(self) -> None:
        """Remove every hook."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._sentinel is not None:
            self._sentinel.remove()
            self._sentinel = None
        if self.activations is not None:
            self.activations.detach()


def _columns(optimizers: Sequence[Optimizer], weights: Sequence[Tensor]) -> dict[int, list[int]]:
    where = {id(w): i for i, w in enumerate(weights)}
    return {
        id(o): sorted(where[id(p)] for g in o.param_groups for p in g["params"] if id(p) in where) for o in optimizers
    }


def _scalar(name: str, value: Tensor | float) -> Tensor | float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(f"log({name}=…) got a tensor of shape {list(value.shape)}; expected one number")
        # A copy: the caller may change its tensor in place before the row leaves the device.
        return value.detach().reshape(()).float().clone()
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"log({name}=…) got {value!r}; expected a number or a tensor with one") from None


def _scalar_columns(rows: Sequence[Mapping[str, Tensor | float]]) -> Block:
    """One column a name; all tensors leave the device in one transfer."""
    waiting = [v for row in rows for v in row.values() if isinstance(v, Tensor)]
    device = waiting[0].device if waiting else None
    arrived = iter(torch.stack([t.to(device) for t in waiting]).cpu().tolist() if waiting else ())
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: np.full(len(rows), np.nan, dtype=np.float32) for name in names}
    for i, row in enumerate(rows):
        for name, value in row.items():
            columns[name][i] = next(arrived) if isinstance(value, Tensor) else value
    return dict(columns)


def _stacked(rows: Sequence[Tensor | None], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    out = np.full((len(rows), *shape), np.nan, dtype=np.float64)
    present = [i for i, row in enumerate(rows) if row is not None]
    if present:
        out[present] = torch.stack([row for row in rows if row is not None]).cpu().numpy()
    return out
