"""Trains several runs of one configuration at once, each with a strength, a start and an order of the data of its own.

Small nets spend their time between the operations: a dozen at once cost what two or three cost one after the other.
The numbers are those of separate trainings (`tests/analyses/test_prediction.py` holds them against `torch.optim` and a
record of `gradscope.record`).
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from analyses.prediction.configurations import HORIZON, Configuration
from analyses.prediction.networks import build
from analyses.prediction.tasks import task

Array = NDArray[np.float32]

#: A run has learned if the mean loss of its last twentieth is this share of the baseline, or less (the contract says).
LEARNED = 0.95


def seed_of(c: Configuration, seed: int) -> int:
    """Of initialisation and data order."""
    return zlib.crc32(f"{c.key}/{seed}".encode()) % 2**31


class Ensemble:
    """R runs under way. ``strengths`` [R]; ``matrices``: names of the penalised parameters, more than one dimension.

    Every parameter is a tensor [R, ...].
    """

    def __init__(self, c: Configuration, strengths: Sequence[float], seeds: Sequence[int]) -> None:
        torch.set_num_threads(1)
        self.configuration = c
        self.data = task(c.task)
        self.strengths = torch.tensor(list(strengths), dtype=torch.float64)
        starts = []
        for seed in seeds:
            torch.manual_seed(seed_of(c, seed))
            self.model = build(c)
            starts.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        self.parameters = {name: torch.stack([s[name] for s in starts]).requires_grad_() for name in starts[0]}
        self.matrices = [name for name, p in self.parameters.items() if p.ndim > 2]
        self._slow = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._square = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._orders = [np.random.default_rng(seed_of(c, seed)) for seed in seeds]
        self._left = [np.empty(0, dtype=np.int64) for _ in seeds]
        self.step = 0

    def _batch(self) -> Tensor:
        size = min(self.configuration.batch, len(self.data.y))
        rows = []
        for i, random in enumerate(self._orders):
            if len(self._left[i]) < size:
                self._left[i] = random.permutation(len(self.data.y))
            rows.append(self._left[i][:size])
            self._left[i] = self._left[i][size:]
        return torch.from_numpy(np.stack(rows))

    def forward_backward(self) -> NDArray[np.float64]:
        """The losses of the next batches [R]; gradients are in ``.grad``."""
        chosen = self._batch()
        x, y = self.data.x[chosen], self.data.y[chosen]

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.data.loss(functional_call(self.model, parameters, (x,)), y)

        losses = vmap(loss, randomness="different")(self.parameters, x, y)
        for p in self.parameters.values():
            p.grad = None
        losses.sum().backward()
        return np.asarray(losses.detach().numpy(), dtype=np.float64)

    @torch.no_grad()
    def update(self) -> None:
        """One step of the optimizer, with the learning rate of this step."""
        c = self.configuration
        lr = c.lr * rate(c.decay, self.step / HORIZON)
        self.step += 1
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            shape = (-1, *[1] * (p.ndim - 1))
            strength = (self.strengths if name in self.matrices else 0 * self.strengths).float().view(shape)
            g = p.grad
            if c.penalty == "l2" and c.optimizer != "adamw":
                g = g + 2 * strength * p
            if c.optimizer in ("adam", "adamw"):
                if c.optimizer == "adamw":
                    p.mul_(1 - lr * 2 * strength)
                self._slow[name].lerp_(g, 0.1)
                self._square[name].mul_(0.999).addcmul_(g, g, value=0.001)
                root = (self._square[name] / (1 - 0.999**self.step)).sqrt_().add_(1e-8)
                p.addcdiv_(self._slow[name], root, value=-lr / (1 - 0.9**self.step))
            elif c.momentum:
                slow = self._slow[name]
                slow.mul_(c.momentum).add_(g)
                p.sub_(g + c.momentum * slow if c.optimizer == "nesterov" else slow, alpha=lr)
            else:
                p.sub_(g, alpha=lr)
            if c.penalty == "l1":
                p.copy_(p.sign() * (p.abs() - lr * strength).clamp_min_(0))

    def learn(self, steps: int) -> None:
        """So many steps without a penalty; it comes on after them."""
        kept, self.strengths = self.strengths, torch.zeros_like(self.strengths)
        for _ in range(steps):
            self.forward_backward()
            self.update()
        self.strengths = kept

    @torch.no_grad()
    def sizes(self) -> Array:
        """Of every matrix ‖g‖, ‖w‖, ⟨w, g⟩, Σ|g|, Σ|w|: [R, 5, P], as a record's row has them."""
        columns = []
        for name in self.matrices:
            w = self.parameters[name].flatten(1)
            grad = self.parameters[name].grad
            g = torch.zeros_like(w) if grad is None else grad.flatten(1)
            columns.append(
                torch.stack([g.norm(dim=1), w.norm(dim=1), (w * g).sum(1), g.abs().sum(1), w.abs().sum(1)], 1)
            )
        return np.asarray(torch.stack(columns, 2).numpy(), dtype=np.float32)

    def keep(self, which: NDArray[np.int64]) -> None:
        """Go on with these runs alone."""
        index = torch.from_numpy(which)
        self.strengths = self.strengths[index]
        for table in (self.parameters, self._slow, self._square):
            for name in table:
                table[name] = table[name].detach()[index].requires_grad_(table is self.parameters)
        self._orders = [self._orders[i] for i in which]
        self._left = [self._left[i] for i in which]

    def branch(self, strengths: Sequence[float]) -> None:
        """Go on from the first run alone, once under each strength, each with the batches that it would see."""
        self.keep(np.zeros(len(strengths), dtype=np.int64))
        self._orders = [copy.deepcopy(self._orders[0]) for _ in strengths]
        self.strengths = torch.tensor(list(strengths), dtype=torch.float64)


def rate(decay: str, at: float) -> float:
    """The learning rate as a share of its full value, this far through the run."""
    if decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(at, 1.0)))
    if decay == "step":
        return 1.0 if at < 0.5 else 0.1
    return min(1.0, (at + 1 / HORIZON) / 0.05) if decay == "warm-up" else 1.0


def probes(c: Configuration, strengths: Sequence[float], seeds: Sequence[int], rows: int) -> tuple[Array, Array]:
    """So many rows of each run: losses [R, T] and sizes [R, T, 5, P]."""
    return rows_of(Ensemble(c, strengths, seeds), rows)


def rows_of(runs: Ensemble, rows: int) -> tuple[Array, Array]:
    """The next rows of runs under way: losses [R, T] and sizes [R, T, 5, P]."""
    losses, table = [], []
    for _ in range(rows):
        losses.append(runs.forward_backward())
        table.append(runs.sizes())
        runs.update()
    return np.stack(losses, 1).astype(np.float32), np.stack(table, 1)


def outcomes(
    c: Configuration, strengths: Sequence[float], seeds: Sequence[int], to_escape: bool = False, delay: int = 0
) -> tuple[NDArray[np.bool_], Array]:
    """Which runs of `HORIZON` steps fail [R], and their losses [R, HORIZON], NaN once they are over.

    ``delay``: so many steps without a penalty come before these, and are not told of.

    One is ended early where nothing can change any more: at the origin, its weights gone; or long after the penalty has
    had its effect, far below the baseline and not rising. ``to_escape``: all of them once they are below .6 of it.
    """
    runs, count = Ensemble(c, strengths, seeds), len(strengths)
    runs.learn(delay)
    baseline = task(c.task).baseline
    seen = np.full((count, HORIZON), np.nan, dtype=np.float32)
    failed, there = np.zeros(count, dtype=bool), np.arange(count)
    slow = 5 * np.array([e_folding(c, s) for s in strengths])
    first = np.zeros(count)
    for step in range(HORIZON):
        seen[there, step] = runs.forward_backward()
        runs.update()
        if step % 20 != 19:
            continue
        weights = sum(runs.parameters[name].detach().flatten(1).square().sum(1).double() for name in runs.matrices)
        size = np.sqrt(np.asarray(weights))
        first[there] = np.where(first[there] > 0, first[there], size)
        now, before = (
            seen[there, step - 19 : step + 1].mean(1),
            seen[there, max(0, step - 39) : max(20, step - 19)].mean(1),
        )
        lost = ((size < 0.08 * first[there]) & (now > 0.98 * baseline)) | ~np.isfinite(now)
        safe = (step >= np.maximum(80, slow[there])) & (now < 0.5 * baseline) & (now <= 1.05 * before)
        safe &= np.asarray(strengths)[there] > 0
        failed[there[lost]] = True
        over = lost | (safe & (c.penalty == "l2"))
        if to_escape:
            over |= (now < 0.6 * baseline) & (step > 40)
        if step == HORIZON - 1:
            failed[there] = ~(now <= LEARNED * baseline)
        elif over.any():
            if over.all():
                break
            runs.keep(np.flatnonzero(~over))
            there = there[~over]
    return failed, seen


def e_folding(c: Configuration, strength: float) -> float:
    """Steps in which the penalty alone shrinks a weight by e; for L1 and coupled Adam half the run's length."""
    if c.group != "direct":
        return HORIZON / 2.0
    return (1 - c.momentum) / max(2 * c.lr * strength, 1e-12)
