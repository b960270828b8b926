"""One run of the benchmark: train to the horizon under `gradscope.record`, keep what the judge would have seen."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

import gradscope
from analyses.common.networks import initialise, network
from analyses.common.tasks import Task, task
from analyses.failure_detection.families import Configuration
from gradscope.quantities import JUDGED
from gradscope.store.layout import GROUP_VARIABLE

#: The rules and thresholds of the judge were chosen on the runs of edition 1; its figures are those of edition 2, whose
#: seeds are others.
EDITION = 2


@dataclass(frozen=True)
class Change:
    """What a run does otherwise than its configuration says."""

    lr: float = 1.0  # factor
    warm_up: float = 0.0  # share of the horizon over which the learning rate rises to its value
    dropout: float = 0.0
    label_noise: float = 0.0  # share of the training targets that are drawn anew
    init: float = 1.0  # factor on every weight matrix
    delay: int = 0  # steps without penalty


@dataclass(frozen=True)
class Run:
    """One training run. ``stratum``: why it is in the benchmark."""

    configuration: Configuration
    stratum: str
    number: int
    strength: float
    change: Change = Change()

    @property
    def key(self) -> str:
        """Names the run, and the file of its record."""
        return f"{self.configuration.key}/{self.stratum}-{self.number}"

    @property
    def seed(self) -> int:
        """Of initialisation, data order and noise."""
        return zlib.crc32(f"{EDITION}/{self.key}".encode()) % 2**31

    @property
    def file(self) -> str:
        """Where the cache keeps it."""
        return self.key.replace("/", "__") + ".npz"


def optimizer_of(run: Run, model: nn.Module) -> torch.optim.Optimizer:
    """With the penalty attached, or as the optimizer's own decay for AdamW."""
    c = run.configuration
    lr = c.lr * run.change.lr
    if c.optimizer == "adamw":
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 2 * run.strength}, {"params": others, "weight_decay": 0.0}]
        adamw = torch.optim.AdamW(groups, lr=lr)
        if run.change.delay:
            raise ValueError("a delay goes through gradscope.regularize, which AdamW's own decay does not use here")
        return adamw
    optimizer: torch.optim.Optimizer
    if c.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    else:
        momentum = 0.9 if c.optimizer == "sgd" else 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    if run.strength:
        penalty = gradscope.L1() if c.penalty == "l1" else gradscope.L2()
        delay = run.change.delay
        schedule = gradscope.Delayed(run.strength, steps=delay) if delay else gradscope.Constant(run.strength)
        gradscope.regularize(optimizer, penalty, schedule)
    return optimizer


def targets(data: Task, noise: float, generator: torch.Generator) -> Tensor:
    """The training targets, this share of them drawn anew from all of them."""
    if not noise:
        return data.y
    drawn = data.y[torch.randint(len(data.y), (len(data.y),), generator=generator)]
    chosen = torch.rand(len(data.y), generator=generator) < noise
    return torch.where(chosen.view(-1, *[1] * (data.y.ndim - 1)), drawn, data.y)


def prepared(run: Run) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A seeded network and its optimizer."""
    c, data = run.configuration, task(run.configuration.task)
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    shape = (int(data.x.shape[1]), int(data.x.shape[2]))
    model = network(c.kind, shape, data.outputs, c.layers, c.width, run.change.dropout)
    if c.he:
        initialise(model, run.change.init)
    elif run.change.init != 1:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(run.change.init if p.ndim > 1 else 1)
    return model, optimizer_of(run, model)


def loop(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    log: Callable[[Tensor], None],
    reshuffled: tuple[int, int] | None = None,
) -> None:
    """The plain loop; ``log`` gets the loss of every step. ``reshuffled``: a step from which on, and a seed by which,
    the data come in another order."""
    c, data = run.configuration, task(run.configuration.task)
    generator = torch.Generator().manual_seed(run.seed)
    y = targets(data, run.change.label_noise, generator)
    ramp = run.change.warm_up * c.steps
    full = [group["lr"] for group in optimizer.param_groups]
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if reshuffled is not None and step == reshuffled[0]:
            generator.manual_seed(reshuffled[1])
            order = order[:0]
        if len(order) < c.batch:
            order = torch.randperm(len(y), generator=generator)
        batch, order = order[: c.batch], order[c.batch :]
        if ramp:
            for group, lr in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = lr * min(1.0, (step + 1) / ramp)
        loss = data.loss(model(data.x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss.detach() if loss.isnan() else loss)


def train(run: Run, cache: Path) -> None:
    """Train and record; the rows that the judge reads go to ``cache``, the record itself is not kept."""
    model, optimizer = prepared(run)
    steps = run.configuration.steps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with gradscope.record(model, optimizer, path, horizon=steps, on_failure="ignore") as recording:
            loop(run, model, optimizer, steps, lambda loss: recording.log(loss=loss))
        keep(path, cache / run.file)


def keep(record: Path, path: Path) -> None:
    """The judge's input of one record, in one small file (h5py, because opening with xarray costs half a run)."""
    with h5py.File(record) as file:
        values = {n: file[n][:] for n in ("step", *JUDGED, "numel", "penalised") if n in file}
        values["group"] = file[GROUP_VARIABLE][:]
        values["names"] = file["parameter"].asstr()[:].astype(str)
        for name in ("config", "capture", "penalty", "status", "baseline_loss", "horizon"):
            values[f"attr_{name}"] = np.asarray(str(file.attrs[name]))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part.npz")
    np.savez(whole, **values)
    whole.replace(path)  # so that a file that is there is complete


def losses_beyond(
    run: Run, steps: int, reshuffled: tuple[int, int] | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The losses of the same run, [steps], not recorded, perhaps past its horizon; ``reshuffled``: see `loop`."""
    model, optimizer = prepared(run)
    seen: list[Tensor] = []
    loop(run, model, optimizer, steps, lambda loss: seen.append(loss.detach()), reshuffled)
    return torch.stack(seen).double().numpy()
