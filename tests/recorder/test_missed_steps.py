"""A training goes on of which no step is seen: said soon, once, naming the optimizer, and the record tells."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import gradscope
from tests.helpers.loops import batches, mlp
from tests.helpers.wrappers import Sharp

Pair = tuple[nn.Module, Any]


class ByHand:
    """Updates without an optimizer: in place, through ``.data``, or by new tensors."""

    def __init__(self, model: nn.Module, way: str) -> None:
        self.parameters, self.way = list(model.parameters()), way

    def zero_grad(self) -> None:
        for p in self.parameters:
            if self.way == "zeroed" and p.grad is not None:
                p.grad.zero_()
            elif self.way != "zeroed":
                p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for p in self.parameters:
            assert p.grad is not None
            if self.way == "data":
                p.data -= 0.1 * p.grad
            else:
                p -= 0.1 * p.grad


def _step_replaced(m: nn.Module, o: SGD) -> Pair:
    o.step = lambda closure=None: SGD.step.__wrapped__(o)  # type: ignore[attr-defined, method-assign]
    return m, o


WAYS: dict[str, Callable[[nn.Module, SGD], Pair]] = {
    "another optimizer": lambda m, o: (m, SGD(m.parameters(), lr=0.1)),
    "another class": lambda m, o: (m, Adam(m.parameters(), lr=0.1)),
    "deep copies": lambda m, o: copy.deepcopy((m, o)),
    "unpickled": lambda m, o: pickle.loads(pickle.dumps((m, o))),
    "a copy of the model": lambda m, o: (c := copy.deepcopy(m), SGD(c.parameters(), lr=0.1)),
    "by hand": lambda m, o: (m, ByHand(m, "in place")),
    "by hand, zeroed": lambda m, o: (m, ByHand(m, "zeroed")),
    "by hand, through data": lambda m, o: (m, ByHand(m, "data")),
    "step replaced": _step_replaced,
}


def go(pair: Pair, count: int, log: Callable[..., None] = lambda **_: None, micro: int = 1) -> None:
    model, optimizer = pair
    for i, (x, y) in enumerate(batches(count * micro)):
        if i % micro == 0:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if i % micro == micro - 1:
            optimizer.step()
        log(loss=loss)


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("way", WAYS)
def test_steps_that_are_not_seen_are_said(tmp_path: Path, way: str, before: int, logged: bool) -> None:
    copied = way in ("deep copies", "unpickled", "a copy of the model")
    if copied and not logged:
        pytest.skip("of a copy nothing reaches the recording")
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run = gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore")
    log = run.log if logged else lambda **_: None
    go((model, optimizer), before, log)
    rows = "nothing is recorded" if not before else f"its rows end at step {before - 1}"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pair = WAYS[way](model, optimizer)
        go(pair, 20 if way.endswith("data") else 10, log)
        told = [str(w.message) for w in seen]
        run.close()
    assert len(told) == len(seen) == 1
    assert "no step of the recorded SGD is seen" in told[0] and rows in told[0]
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.attrs["status"] == "failed"
        assert dataset.sizes.get("step", 0) == before
        assert rows in json.loads(dataset.attrs["capture"])["steps_not_seen"]


def test_one_of_two_optimizers_is_named(tmp_path: Path) -> None:
    model = mlp()
    first, second = SGD(model[:2].parameters(), lr=0.1), Adam(model[2:].parameters(), lr=0.1)
    with gradscope.record(model, [first, second], tmp_path / "r.h5", on_failure="ignore") as run:
        new = Adam(model[2:].parameters(), lr=0.1)
        with pytest.warns(UserWarning, match="no step of the recorded Adam is seen"):
            for x, y in batches(10):
                model.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                first.step()
                new.step()
                run.log(loss=loss)


@pytest.mark.parametrize("kind", ["accumulation", "accumulation, zeroed", "max_norm", "lbfgs", "sam", "probes", "log"])
def test_usual_loops_are_not_accused(tmp_path: Path, kind: str) -> None:
    """Warnings are errors here."""
    torch.manual_seed(0)
    model: nn.Module = mlp()
    if kind == "max_norm":
        model = nn.Sequential(nn.Embedding(9, 6, max_norm=0.5), nn.Flatten(), nn.Linear(36, 3))
    optimizer: Any = SGD(model.parameters(), lr=0.1)
    if kind == "lbfgs":
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20)
    if kind == "sam":
        optimizer = Sharp(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for x, y in batches(4):
            inputs = x.abs().long().clamp(0, 8) if kind == "max_norm" else x

            def closure(x: torch.Tensor = inputs, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            for _ in range(12 if kind == "probes" else 1):
                loss = closure()
            optimizer.zero_grad(set_to_none=kind != "accumulation, zeroed")
            for _ in range(24 if kind.startswith("accumulation") or kind == "max_norm" else 1):
                loss = nn.functional.cross_entropy(model(inputs), y)
                loss.backward()
            for _ in range(30 if kind == "log" else 0):
                run.log(accuracy=0.5)
            optimizer.step(*[closure] * (kind in ("lbfgs", "sam")))
            run.log(loss=loss)
            for _ in range(30 if kind == "log" else 0):
                run.log(accuracy=0.5)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 4 and dataset.attrs["status"] == "finished"
        assert "steps_not_seen" not in json.loads(dataset.attrs["capture"])


@pytest.mark.parametrize("same", [True, False])
def test_optimizers_used_one_after_the_other_share_no_row(tmp_path: Path, same: bool) -> None:
    """On the same weights, or on others with a loss logged a step: each step has its own row and loss."""
    model = mlp()
    first = SGD(model.parameters() if same else model[:2].parameters(), lr=0.1)
    second = Adam(model.parameters() if same else model[2:].parameters(), lr=0.01)
    losses: list[float] = []

    with gradscope.record(model, [first, second], tmp_path / "r.h5", on_failure="ignore") as run:
        for optimizer in (first, second, first):
            go((model, optimizer), 5, lambda loss: (losses.append(loss.item()), run.log(loss=loss))[1])
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["loss"].values.tolist() == pytest.approx(losses)
        assert dataset.attrs["status"] == "finished"


def test_optimizers_that_take_turns_share_rows(tmp_path: Path) -> None:
    """As generator and discriminator do: one row a round."""
    model = mlp()
    both = [SGD(model[:2].parameters(), lr=0.1), Adam(model[2:].parameters(), lr=0.01)]
    with gradscope.record(model, both, tmp_path / "r.h5", on_failure="ignore") as run:
        for x, y in batches(5):
            for optimizer in both:
                model.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 5
        assert bool((dataset["loss_gradient_norm"] > 0).all())
