"""Stands beside a training script, without gradscope's help: counts and times its steps, and recomputes its numbers.

In each process one of: ``bare`` and ``recorded`` (end after n steps, time them in turns, tell the weights), ``checked``
(recorded, and every number computed again in float64 from what hooks of torch show).
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

NUMBERS = (
    "loss_gradient_mean_abs", "loss_gradient_norm", "loss_gradient_max_abs", "weight_mean_abs", "weight_norm",
    "weight_max_abs", "weight_gradient_dot",
)  # fmt: skip


class Enough(BaseException):
    """The steps asked for have been made."""


def state(optimizers: Iterable[Optimizer]) -> str:
    """A digest of all weights and states that these optimizers hold, and of every generator of random numbers."""
    digest = hashlib.sha256()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                digest.update(p.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(torch.get_rng_state().numpy().tobytes())
    digest.update(repr(np.random.get_state()).encode())  # noqa: NPY002  (what scripts use)
    digest.update(repr(random.getstate()).encode())
    return digest.hexdigest()


class Clock:
    """Ends the script after ``steps``; takes turns of ``turn`` steps with another process, told by two pipes."""

    def __init__(self, steps: int, turn: int, pipes: tuple[int, int] | None) -> None:
        self.steps, self.turn, self.pipes = steps, turn, pipes
        self.count = self._depth = 0
        self.optimizers: list[Optimizer] = []
        self.turns: list[tuple[float, float]] = []
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)
        self._wait()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._depth += 1

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._depth -= 1
        if self._depth:
            return
        if not any(optimizer is one for one in self.optimizers):
            self.optimizers.append(optimizer)
        self.count += 1
        if self.count % self.turn == 0:
            self.turns.append((time.perf_counter() - self._wall, time.process_time() - self._processor))
            if self.count < self.steps:
                self._wait()
        if self.count >= self.steps:
            raise Enough

    def _wait(self) -> None:
        if self.pipes is not None:
            os.write(self.pipes[1], b".")
            os.read(self.pipes[0], 1)
        self._wall, self._processor = time.perf_counter(), time.process_time()


def outermost(recorded: Any) -> dict[str, Tensor]:
    """Parameters by their plain names."""
    names = {}
    for name, p in recorded.named_parameters():
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        names[".".join(parts[1:] if parts[0] == "module" else parts)] = p
    return names


class Twin:
    """The rows that one recording ought to hold."""

    def __init__(self, recording: Any, model: nn.Module) -> None:
        self.recording = recording
        self.parameters = outermost(model)
        self.known = {id(p) for p in self.parameters.values()}
        self.rows: list[dict[str, dict[str, float]]] = []
        self.losses: dict[int, float] = {}
        self.rates: list[list[float]] = []
        self.clips: list[float] = []
        self._seen: dict[str, dict[str, float]] = {}
        self._open: set[int] = set()
        self._fresh = False
        for name, p in self.parameters.items():
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(lambda p, name=name: self._accumulated(name, p))

    def _accumulated(self, name: str, p: Tensor) -> None:
        self._fresh = True
        self._seen[name] = numbers(p, p.grad)

    def before(self, optimizer: Optimizer) -> None:
        mine = [p for group in optimizer.param_groups for p in group["params"] if id(p) in self.known]
        if not mine:
            return
        if not self._open or id(optimizer) in self._open:
            self.rows.append({})
            self.rates.append([])
            self.clips.append(float("nan"))
            self._open = set()
        self._open.add(id(optimizer))
        self._fresh = False
        row, moved = self.rows[-1], {id(p) for p in mine}
        before = after = 0.0
        for name, p in self.parameters.items():
            if id(p) in moved:
                now = numbers(p, p.grad)
                row[name] = self._seen.pop(name, now) if p.grad is not None else now
                if p.grad is not None:
                    before += row[name]["loss_gradient_norm"] ** 2
                    after += now["loss_gradient_norm"] ** 2
        self.rates[-1] += [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        self.clips[-1] = (after / before) ** 0.5 if before else 1.0
        for group in optimizer.param_groups:
            decay = float(group.get("weight_decay") or 0.0)
            for name, p in self.parameters.items():
                if any(p is q for q in group["params"]):
                    # Optimizers pass a frozen parameter over, with its decay.
                    row[name]["penalty_gradient_mean_abs"] = p.requires_grad * decay * row[name]["weight_mean_abs"]

    def logged(self, scalars: dict[str, Any]) -> None:
        if "loss" in scalars:
            self.losses[len(self.rows) if self._fresh or not self.rows else len(self.rows) - 1] = float(scalars["loss"])


def numbers(p: Tensor, gradient: Tensor | None) -> dict[str, float]:
    """The statistics of a weight and its gradient, from their definitions."""
    w = p.detach().double()
    g = torch.full_like(w, torch.nan) if gradient is None else gradient.detach().to_dense().double()
    if not w.numel():
        return dict.fromkeys(NUMBERS, 0.0)
    values = (g.abs().mean(), g.norm(), g.abs().max(), w.abs().mean(), w.norm(), w.abs().max(), (w * g).sum())
    return dict(zip(NUMBERS, (float(value) for value in values), strict=True))


class Witness:
    """Makes a `Twin` of every recording that the script begins."""

    def __init__(self, check: bool) -> None:
        from gradscope.recording import Recording, opening

        self.twins: list[Twin] = []
        self.recordings: list[Any] = []
        begin, log = opening.open_recording, Recording.log

        def begun(model: nn.Module, *args: Any) -> Recording:
            recording = begin(model, *args)
            self.recordings.append(recording)
            if check:
                self.twins.append(Twin(recording, model))
            return recording

        def logged(recording: Recording, **scalars: Any) -> None:
            for twin in self.twins:
                if twin.recording is recording:
                    twin.logged(scalars)
            log(recording, **scalars)

        opening.open_recording = begun  # type: ignore[assignment]
        if check:
            Recording.log = logged  # type: ignore[method-assign,assignment]
            self._depth = 0
            register_optimizer_step_pre_hook(self._before)
            register_optimizer_step_post_hook(self._after)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._depth += 1
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if self._depth > 1:
            return None
        if closure is None:
            for twin in self.twins:
                twin.before(optimizer)
            return None
        seen = False

        def watched() -> Any:
            nonlocal seen
            loss = closure()
            if not seen:
                seen = True
                for twin in self.twins:
                    twin.before(optimizer)
            return loss

        return ((args[0], watched), {}) if len(args) > 1 else (args, {**kwargs, "closure": watched})

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._depth -= 1


def compare(twin: Twin, dataset: Any) -> dict[str, Any]:
    """The largest relative distance of each recorded quantity from its twin, and what does not fit at all."""
    names, wrong, worst = dataset["parameter"].values.tolist(), [], {}
    if dataset.sizes["step"] != len(twin.rows):
        wrong.append(f"{dataset.sizes['step']} rows, {len(twin.rows)} steps")
    rows = min(dataset.sizes["step"], len(twin.rows))
    count = 0
    for quantity in (*NUMBERS, "penalty_gradient_mean_abs"):
        mine = np.array([[row.get(n, {}).get(quantity, np.nan) for n in names] for row in twin.rows[:rows]])
        found = dataset[quantity].values[:rows].astype(float)
        if mine.size == 0:
            continue
        if quantity == "weight_gradient_dot":
            scale = dataset["weight_norm"].values[:rows] * dataset["loss_gradient_norm"].values[:rows]
        else:
            scale = np.abs(mine)
        both = np.isfinite(mine) & np.isfinite(found)
        count += int(both.sum())
        if (np.isnan(mine) != np.isnan(found)).any():
            at = np.argwhere(np.isnan(mine) != np.isnan(found))
            row, column = at[0]
            wrong.append(
                f"{quantity}: {len(at)} of {mine.size} are NaN in one of the two, first {names[column]} at row {row} "
                f"({found[row, column]:.4g} recorded, {mine[row, column]:.4g} right)"
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = np.abs(found - mine) / np.maximum(scale, 1e-30)
        distance[~both | (np.abs(found - mine) < 1e-30)] = 0
        worst[quantity] = float(distance.max())
        if worst[quantity] > 1e-4:
            row, column = np.unravel_index(distance.argmax(), distance.shape)
            wrong.append(
                f"{quantity} of {names[column]} at row {row}: {found[row, column]:.6g} recorded, "
                f"{mine[row, column]:.6g} right"
            )
    wrong += [*_of_rows(twin, dataset, rows), *_of_losses(twin, dataset)]
    return {"rows": rows, "numbers": count, "worst": worst, "wrong": wrong}


def _of_rows(twin: Twin, dataset: Any, rows: int) -> list[str]:
    wrong = []
    found = dataset["clip_coefficient"].values[:rows]
    mine = np.array(twin.clips[:rows])
    both = np.isfinite(found) & np.isfinite(mine)
    if both.any() and (far := np.abs(found - mine)[both].max()) > 1e-3:
        at = int(np.abs(np.where(both, found - mine, 0)).argmax())
        wrong.append(f"clip_coefficient off by {far:.3g}: {found[at]:.4g} at row {at}, {mine[at]:.4g} right")
    rates = [row for row in twin.rates[:rows] if len(row) == dataset.sizes["group"]]
    if len(rates) == rows and rows:
        off = np.abs(dataset["learning_rate"].values[:rows] - np.array(rates)) / np.maximum(np.array(rates), 1e-30)
        if np.nanmax(off) > 1e-5:
            wrong.append(f"learning_rate off by {np.nanmax(off):.3g} of itself")
    return wrong


def _of_losses(twin: Twin, dataset: Any) -> list[str]:
    if not twin.losses:
        return []
    found = dataset["loss"].values if "loss" in dataset else np.full(dataset.sizes["step"], np.nan)
    off = [
        f"loss at row {row}: {found[row]:.6g} recorded, {loss:.6g} logged"
        for row, loss in twin.losses.items()
        if row < len(found) and not np.isclose(found[row], loss, rtol=1e-5, equal_nan=True)
    ]
    return off[:1] if len(off) <= 1 else [f"{len(off)} losses of {len(twin.losses)}, first {off[0]}"]
