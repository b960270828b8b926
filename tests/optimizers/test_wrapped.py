"""Optimizers that are not quite torch's: wrappers, nested steps."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.optim import SGD

import gradscope
from gradscope import L1, L2, Constant, Delayed, InputError, regularize
from gradscope.optimizers.wrapped import stepping
from gradscope.torch_utils import one_step
from tests.helpers.loops import batches, mlp
from tests.helpers.wrappers import (
    Averaging,
    Delegating,
    Disguised,
    Hooked,
    Several,
    Sharded,
    Sharp,
    Slow,
    Warm,
    Warmer,
    halves,
)

Make = Callable[[nn.Sequential], Any]


def sgd(model: nn.Sequential) -> SGD:
    return SGD(model.parameters(), lr=0.1)


WRAPPERS: dict[str, tuple[Make, str]] = {
    "accelerate": (lambda m: Delegating(sgd(m)), "SGD inside it"),
    "accelerate of accelerate": (lambda m: Delegating(Delegating(sgd(m))), "SGD inside it"),
    "fabric": (lambda m: Disguised(sgd(m)), "SGD inside it"),
    "with hooks of its own": (lambda m: Hooked(sgd(m)), "SGD inside it"),
    "lookahead": (lambda m: Slow(sgd(m)), "SGD inside it"),
    "accelerate of lookahead": (lambda m: Delegating(Slow(sgd(m))), "SGD inside it"),
    "schedule-free": (lambda m: Averaging(sgd(m)), "SGD inside it"),
    "accelerate of schedule-free": (lambda m: Delegating(Averaging(sgd(m))), "SGD inside it"),
    "sam": (lambda m: Sharp(m.parameters(), lr=0.1), "SGD inside it"),
    "container": (halves, "SGD, Adam inside it"),
    "shards": (lambda m: Sharded(m.parameters(), 0.1), ""),
}


@pytest.fixture(autouse=True)
def _sgd_is_in_use() -> None:
    """So that `SGD.step` calls hooks, whatever ran before."""
    sgd(mlp())


def steps(
    model: nn.Module, optimizer: Any, count: int, run: Any = None, way: str = "step"
) -> tuple[list[float], list[Tensor]]:
    """A loop; the norms of the first weight's gradient that ``step`` uses, and the weights at the end."""
    norms = []
    for x, y in batches(count):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            norms.append(next(model.parameters()).grad.norm().item())
            return loss

        loss = closure()
        if way == "two steps":
            norms.pop()
            optimizer.first_step()
            closure()
            optimizer.second_step()
        elif way == "closure":
            norms.pop()
            optimizer.step(closure)
        else:
            optimizer.step()
        if run is not None:
            run.log(loss=loss)
    return norms, [p.detach().clone() for p in model.parameters()]


def watched(make: Make, path: Path, way: str = "step", count: int = 6, **options: Any) -> xr.Dataset:
    """Trained with and without a recording: the same weights; the record, whose gradients are those of the loop."""
    torch.manual_seed(0)
    model = mlp()
    alone, _ = copy.deepcopy(model), None
    _, expected = steps(alone, make(alone), count, way=way)
    optimizer = make(model)
    with gradscope.record(model, optimizer, path, on_failure="ignore", **options) as run:
        norms, weights = steps(model, optimizer, count, run, way)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    with gradscope.open_run(path) as dataset:
        assert dataset.sizes["step"] == count
        np.testing.assert_allclose(dataset["loss_gradient_norm"].values[:, 0], norms, rtol=1e-5)
        assert np.isfinite(dataset["loss"].values).all()
        return dataset.load()


@pytest.mark.parametrize("preset", ["standard", "full"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_is_recorded_through_the_optimizer_inside(tmp_path: Path, kind: str, preset: str) -> None:
    make, inside = WRAPPERS[kind]
    for way in ("closure", "two steps") if kind == "sam" else ("step",):
        path = tmp_path / f"{way}.h5"
        dataset = watched(make, path, way, preset=preset)
        assert dataset["learning_rate"].values[:, 0] == pytest.approx(0.1)
        told = json.loads(dataset.attrs["capture"]).get("optimizers", {})
        assert [text.removeprefix("recorded through ") for text in told.values()] == ([inside] if inside else [])


def test_a_wrapper_and_what_it_wraps_are_one(tmp_path: Path) -> None:
    model = mlp()
    inner = sgd(model)
    with gradscope.record(model, [Delegating(inner), inner], tmp_path / "r.h5") as run:
        steps(model, inner, 3, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dict(dataset.sizes)["group"] == 1 and dataset.sizes["step"] == 3


class Strange(torch.optim.Optimizer):
    """Has neither hooks nor an optimizer inside."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.param_groups = [{"params": parameters}]


def test_what_cannot_be_seen_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = mlp()
    other = sgd(mlp())
    flat = Hooked(SGD([nn.Parameter(torch.zeros(3))], lr=0.1))
    overlapping = Delegating(sgd(model))
    overlapping.second = sgd(model)
    for given, message in (
        (Strange(list(model.parameters())), "a Strange whose steps cannot be seen.*pass the optimizer whose step"),
        (Delegating(other), "holds none of the model's parameters"),
        (flat, "holds none of the model's parameters"),
        (overlapping, "no single optimizer of its parameters is found inside"),
        ("sgd", "expected a torch.optim.Optimizer"),
        ([], "expected a torch.optim.Optimizer"),
    ):
        with pytest.raises(InputError, match=message):
            gradscope.record(model, given, tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_a_recording_that_fails_to_begin_leaves_nothing(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, the file of an earlier record is still there, and the next attempt works."""
    path = tmp_path / "r.h5"
    model = mlp()
    optimizer = sgd(model)
    if mode == "overwrite":
        gradscope.record(model, optimizer, path).close()
    before = sorted(p.name for p in tmp_path.iterdir())
    for place in (
        "recorder.listeners.grad_scaling.GradScaling.attach",
        "recording.opening.Termination",
        "recorder.baseline.assumed.AssumedBaseline.watch",
    ):
        with monkeypatch.context() as broken:
            broken.setattr(f"gradscope.{place}", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                gradscope.record(model, optimizer, path, mode=mode)
        assert sorted(p.name for p in tmp_path.iterdir()) == before
        assert not optimizer._optimizer_step_pre_hooks and not any(m._forward_hooks for m in model.modules())
    with gradscope.record(model, optimizer, path, mode=mode) as run:
        steps(model, optimizer, 3, run)


def test_parameters_without_a_shape_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"'0.weight', have no shape yet .*run a dummy batch through the model first"):
        gradscope.record(model, sgd(model), tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []
    model(torch.randn(5, 6))
    with gradscope.record(model, sgd(model), tmp_path / "r.h5"):
        pass


@pytest.mark.parametrize("cls", [Warm, Warmer])
@pytest.mark.parametrize("preset", ["standard", "full"])
def test_a_nested_step_is_one_step(tmp_path: Path, cls: type[SGD], preset: str) -> None:
    dataset = watched(lambda m: cls(m.parameters(), lr=0.05, momentum=0.9), tmp_path / "r.h5", preset=preset)
    if preset == "full" and cls is Warm:
        assert (dataset["update_mean_abs"].values > 0).all()


def test_without_the_guard_a_nested_step_is_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_step, "_inside_another", lambda optimizer: False)
    with pytest.raises(AssertionError):
        watched(lambda m: Warm(m.parameters(), lr=0.05), tmp_path / "r.h5")


PENALTIES = {"l1": (L1(), Constant(0.05)), "l2": (L2(), Constant(0.05)), "delayed": (L2(), Delayed(0.05, steps=3))}


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_penalty_acts_once_a_step(kind: str) -> None:
    """Under nested steps and wrappers as under the plain optimizer."""
    penalty, schedule = PENALTIES[kind]
    ends = {}
    makes: dict[str, Make] = {
        "plain": sgd, "nested": lambda m: Warm(m.parameters(), lr=0.1), "accelerate": lambda m: Delegating(sgd(m)),
        "fabric": lambda m: Disguised(sgd(m)), "with hooks": lambda m: Hooked(sgd(m)),
    }  # fmt: skip
    for name, make in makes.items():
        torch.manual_seed(0)
        model = mlp()
        optimizer = make(model)
        handle = regularize(optimizer, penalty, schedule)
        ends[name] = steps(model, optimizer, 6)[1]
        assert handle.step == 6
        handle.detach()
    for name in makes:
        assert all(torch.equal(a, b) for a, b in zip(ends["plain"], ends[name], strict=True)), name


def test_a_penalty_on_several_at_once_is_refused() -> None:
    with pytest.raises(InputError, match=r"the Several holds 2 optimizers \(SGD, Adam\); give one of them"):
        regularize(halves(mlp()), L2(), Constant(0.1))


def test_a_step_that_raises_is_over(tmp_path: Path) -> None:
    class Fails(Warm):
        fail = False

        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            out = super().step(closure)
            if self.fail:
                raise RuntimeError("after the inner step")
            return out

    model = mlp()
    optimizer = Fails(model.parameters(), lr=0.1)
    handle = regularize(optimizer, L1(), Constant(0.01))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        steps(model, optimizer, 2, run)
        optimizer.fail = True
        with pytest.raises(RuntimeError):
            steps(model, optimizer, 1, run)
        optimizer.fail = False
        steps(model, optimizer, 3, run)
    assert handle.step == 5
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 6


def test_a_scaler_may_be_given_the_wrapper(tmp_path: Path) -> None:
    model = mlp()
    optimizer = Hooked(sgd(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(6)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            norm = model[0].weight.grad.norm().item() / scaler.get_scale()
            if step == 2:
                model[0].weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            run.log(loss=loss, norm=norm)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["skipped"].values.tolist() == [0, 0, 1, 0, 0, 0]
        norms = dataset["loss_gradient_norm"].values[:, 0]
        np.testing.assert_allclose(norms, dataset["norm"].values, rtol=1e-5)


def test_an_argument_that_is_no_closure_reaches_the_optimizer(tmp_path: Path) -> None:
    class Told(SGD):
        told: Any = None

        def step(self, metric: Any = None, scale: float = 1.0) -> Any:  # type: ignore[override]
            self.told = metric, scale
            return super().step()

    model = mlp()
    optimizer = Told(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), Constant(0.01))
    with gradscope.record(model, optimizer, tmp_path / "r.h5"):
        nn.functional.cross_entropy(model(torch.randn(5, 6)), torch.zeros(5, dtype=torch.long)).backward()
        optimizer.step(0.5, 2.0)
    assert optimizer.told == (0.5, 2.0)


def test_an_optimizer_that_knows_itself_is_plain() -> None:
    optimizer = sgd(mlp())
    optimizer.me = optimizer
    assert stepping(optimizer) == [optimizer]
    assert stepping(Several(optimizer)) == [optimizer]


def _load(o: SGD) -> None:
    o.load_state_dict(o.state_dict())


def _replaced(o: SGD) -> None:
    o.param_groups = [dict(g) for g in o.param_groups]


def _nothing(o: SGD) -> None:
    pass


CHANGES: dict[str, tuple[Callable[[SGD], None], str, Any]] = {
    "load_state_dict": (_load, "lr", 0.01),
    "load_state_dict, decay": (_load, "weight_decay", 0.5),
    "groups replaced": (_replaced, "lr", 0.01),
    "rate a tensor": (_nothing, "lr", torch.tensor(0.01)),
    "rate of one entry": (_nothing, "lr", torch.tensor([0.01])),
    "rate a whole tensor": (_nothing, "lr", torch.tensor(1)),
    "rate of numpy": (_nothing, "lr", np.float32(0.01)),
    "decay a tensor": (_nothing, "weight_decay", torch.tensor(0.5)),
    "decay of numpy": (_nothing, "weight_decay", np.float64(0.5)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_groups_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    """Whatever becomes of the dictionaries, and whatever stands in them, in the middle of a run."""
    change, name, value = CHANGES[kind]
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.02)
    rates, decays = [], []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for step in range(6):
            if step == 3:
                change(optimizer)
                optimizer.param_groups[0][name] = value
            rates.append(float(optimizer.param_groups[0]["lr"]))
            decays.append(float(optimizer.param_groups[0]["weight_decay"]) / 2)
            steps(model, optimizer, 1, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["learning_rate"].values[:, 0], rates, rtol=1e-6)
        np.testing.assert_allclose(dataset["strength"].values[:, 0], decays, rtol=1e-6)


def test_groups_that_go_and_come_keep_their_places(tmp_path: Path) -> None:
    model = mlp()
    parts = [model[0], model[2], model[4]]
    optimizer = SGD([{"params": list(m.parameters()), "lr": 0.1 * n} for n, m in enumerate(parts, 1)], weight_decay=0.2)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        steps(model, optimizer, 2, run)
        first = optimizer.param_groups.pop(0)
        steps(model, optimizer, 2, run)
        optimizer.param_groups.append(first)
        steps(model, optimizer, 2, run)
    gone = [np.nan, 0.2, 0.3]
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        found = dataset["learning_rate"].values
        np.testing.assert_allclose(found, [[0.1, 0.2, 0.3]] * 2 + [gone] * 2 + [[0.1, 0.2, 0.3]] * 2, rtol=1e-6)
        assert dataset["strength"].values[:, 0] == pytest.approx([0.1, 0.1, 0, 0, 0.1, 0.1])
        assert (dataset["strength"].values[:, 1:] == np.float32(0.1)).all()
        assert "added_later" not in json.loads(dataset.attrs["capture"])


class OwnRate(torch.optim.Optimizer):
    """Makes steps of a size of its own; ``lr`` is None, or is not there."""

    def __init__(self, parameters: Any, **defaults: Any) -> None:
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.1)


@pytest.mark.parametrize(
    "given", [{}, {"lr": None}, {"lr": "auto", "momentum": (0.9, 0.95), "betas": (torch.tensor(0.9), object())}]
)
def test_a_rate_that_is_not_known_is_nan(tmp_path: Path, given: dict[str, Any]) -> None:
    from gradscope_cli.main import run as command

    path = tmp_path / "r.h5"
    dataset = watched(lambda m: OwnRate(m.parameters(), **given), path, preset="full")
    assert np.isnan(dataset["learning_rate"].values).all()
    assert [command([name, str(path)]) for name in ("inspect", "diagnose")] == [0, 0]
    model = mlp()
    optimizer = OwnRate(model.parameters(), **given)
    for penalty, options in ((L1(), {}), (L2(), {"decoupled": True})):
        with pytest.raises(InputError, match="goes by the learning rate, and the optimizer's lr is"):
            regularize(optimizer, penalty, Constant(0.1), **options)
    regularize(optimizer, L2(), Constant(0.1))
    steps(model, optimizer, 2)


def test_the_same_parameters_under_two_optimizers_keep_their_groups(tmp_path: Path) -> None:
    model = mlp()
    two = [SGD(model.parameters(), lr=0.1), SGD(model.parameters(), lr=0.2)]
    with gradscope.record(model, two, tmp_path / "r.h5", on_failure="ignore") as run:
        two[1].load_state_dict(two[1].state_dict())
        steps(model, two[1], 2, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["learning_rate"].values, [[0.1, 0.2]] * 2, rtol=1e-6)


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_a_head_that_is_replaced_is_not_recorded_as_the_old_one(tmp_path: Path, preset: str) -> None:
    """The old one keeps the gradient it had: nobody clears it any more."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", preset=preset, on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(6)):
            if step == 3:
                model[4] = nn.Linear(8, 3)
                optimizer.param_groups[0]["params"][4:] = list(model[4].parameters())
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        capture = json.loads(dataset.attrs["capture"])
        norms = dataset["loss_gradient_norm"]
        assert np.isnan(norms.sel(parameter=["4.weight", "4.bias"])[3:]).all()
        assert np.isfinite(norms[:3]).all() and np.isfinite(norms.sel(parameter="0.weight")).all()
    assert capture["not_read"] == dict.fromkeys(
        ["4.weight", "4.bias"], "no more among the optimizer's parameters at step 3"
    )
    assert capture["joined_later"].startswith("2 parameters")
