"""One way to hold a loop to account: train it bare, train it recorded, compare weights, numbers and `capture`."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

import gradscope
from tests.helpers import exact

DECAY = 0.02
Loss = Callable[[nn.Module], Tensor]
Shape = Callable[["Loop"], Sequence[Tensor]]


class Unrecorded:
    """Stands in for a `Recording` where nothing is recorded."""

    def log(self, **scalars: Any) -> None:
        pass

    def epoch(self, epoch: int, **metrics: Any) -> None:
        pass


@dataclass
class Loop:
    """What a shape is given. Bare, its recordings record nothing and its rows are not computed.

    ``rows``: by name of the recording, what its rows have to hold.
    """

    folder: Path
    recorded: bool
    rows: dict[str, list[exact.Row]] = field(default_factory=dict)

    @contextlib.contextmanager
    def record(self, model: nn.Module, optimizer: Any, name: str = "run", **options: Any) -> Iterator[Any]:
        """A recording of everything at every step, or none."""
        self.rows[name] = []
        if not self.recorded:
            yield Unrecorded()
            return
        options = {"every": {"activations": 1}, "on_failure": "ignore"} | options
        with gradscope.record(model, optimizer, self.folder / f"{name}.h5", **options) as run:
            yield run

    def expect(
        self,
        model: nn.Module,
        loss: Loss,
        decay: float | Sequence[float] = 0.0,
        name: str = "run",
        skipped: Callable[[str], bool] = lambda parameter: False,
    ) -> None:
        """The next row holds this: ``loss(model)`` differentiated in float64 on a copy, and that pass's outputs.

        ``skipped``: parameters that no optimizer of the recording moves.
        """
        if not self.recorded:
            return
        twin = copy.deepcopy(model).double()
        twin.zero_grad()
        outputs, undo = _listen(twin)
        with torch.random.fork_rng(), torch.enable_grad():
            loss(twin).backward()
        undo()
        found = [None if skipped(n) else p.grad for n, p in twin.named_parameters()]
        row = exact.row(model, found, decay)
        for at, (name_of, _) in enumerate(twin.named_parameters()):
            if skipped(name_of):
                for quantity, values in row.items():
                    values[at] = 0.0 if quantity == "penalty_gradient_mean_abs" else float("nan")
        row["activation_mean_abs"] = outputs
        self.rows[name].append(row)

    def forget(self, quantity: str, name: str = "run") -> None:
        """Nothing is said of this quantity in the row expected last."""
        if self.recorded:
            self.rows[name][-1].pop(quantity, None)

    def dataset(self, name: str = "run") -> xr.Dataset:
        """The record, loaded."""
        with gradscope.open_run(self.folder / f"{name}.h5") as dataset:
            return dataset.load()


def _listen(twin: nn.Module) -> tuple[list[float], Callable[[], None]]:
    """Mean |output| of every leaf, over all forwards until ``undo()``; NaN where there was none."""
    leaves = [m for m in twin.modules() if not any(True for _ in m.children())]
    sums = [[0.0, 0] for _ in leaves]

    def hook(at: int) -> Callable[..., None]:
        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = (output[0] if isinstance(output, tuple) else output).detach()
            if torch.is_grad_enabled():
                sums[at][0] += float(tensor.abs().sum())
                sums[at][1] += tensor.numel()

        return add

    handles = [leaf.register_forward_hook(hook(at)) for at, leaf in enumerate(leaves)]
    means: list[float] = []

    def undo() -> None:
        for handle in handles:
            handle.remove()
        means.extend(total / count if count else float("nan") for total, count in sums)

    return means, undo


def like(tensor: Tensor, model: nn.Module) -> Tensor:
    """A batch in the precision of a model's weights."""
    return tensor.to(next(model.parameters()).dtype)


def held(shape: Shape, folder: Path, rtol: float = 1e-4) -> Loop:
    """Run the shape both ways: weights and random numbers bit for bit, rows by their twins. For more to be said of."""
    states = []
    for recorded in (False, True):
        torch.manual_seed(0)
        where = folder / ("recorded" if recorded else "bare")
        where.mkdir()
        loop = Loop(where, recorded)
        weights = [w.detach().clone() for w in shape(loop)]
        states.append([*weights, torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True)), "the recording changed the training"
    for name, rows in loop.rows.items():
        exact.equal(loop.dataset(name), rows, rtol=rtol, atol=1e-7)
    return loop


def capture(dataset: xr.Dataset) -> dict[str, Any]:
    """What the record says of its numbers."""
    found: dict[str, Any] = json.loads(dataset.attrs["capture"])
    return found
