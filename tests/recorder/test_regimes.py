"""Every way to train that the recorder has to be right under, against float64 twins.

Each of these tests is shown to fail when the handling of its regime is taken out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.recorder.kernels import statistics
from gradscope.recorder.kernels.addresses import NOWHERE, Addresses
from gradscope.recorder.listeners.grad_scaling import GradScaling
from gradscope.recorder.meter import Meter
from gradscope.recorder.recorder import Recorder
from tests.helpers import exact
from tests.helpers.exact import MODELS, Batch, Row

DECAY = 0.02
STEPS = 6

Patch = pytest.MonkeyPatch
Body = Callable[["Loop", list[Batch]], None]


@dataclass
class Loop:
    """One training loop under a recording."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    run: gradscope.Recording | None = None
    scaler: torch.amp.GradScaler | None = None
    step: int = 0

    def backward(self, batches: list[Batch]) -> Tensor:
        """Zero, and one pass a micro-batch."""
        self.optimizer.zero_grad()
        for batch in batches:
            loss = exact.loss_of(self.model, batch) / len(batches)
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss


@dataclass
class Regime:
    """``body``: one step. ``sabotage``: takes the handling out. ``overflows``: a step whose numbers are not finite."""

    body: Body
    sabotage: Callable[[Patch], None]
    make: Callable[[nn.Module], torch.optim.Optimizer] = lambda m: torch.optim.SGD(
        m.parameters(), lr=0.05, momentum=0.9, weight_decay=DECAY
    )
    twin: Callable[[nn.Module, list[Tensor | None]], list[Tensor | None]] = lambda model, found: found
    micro: int = 1
    scaled: bool = False
    overflows: int | None = None


def noticed(sabotaged: bool) -> contextlib.AbstractContextManager[object]:
    """What follows holds, or does not where the handling was taken out."""
    return pytest.raises(AssertionError) if sabotaged else contextlib.nullcontext()


def at_the_step(patch: Patch) -> None:
    """What other tools do: look at ``.grad`` when the optimizer is called."""
    patch.setattr(Meter, "after_backward", lambda self, row: setattr(self, "fired", False))


def trusting(patch: Patch) -> None:
    """Whatever was measured first stands."""
    patch.setattr(Meter, "_settle", lambda self, row, gradients: (self._row == row, False))


def first_pass_only(patch: Patch) -> None:
    trusting(patch)
    whole = Meter.after_backward
    patch.setattr(Meter, "after_backward", lambda self, row: None if self._row == row else whole(self, row))


def blind_to_scalers(patch: Patch) -> None:
    patch.setattr(GradScaling, "attach", lambda self: None)


def before_the_closure(patch: Patch) -> None:
    def at_once(self: Recorder, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if id(optimizer) in self._once:
            self.observe(optimizer)

    patch.setattr(Recorder, "_on_pre_step", at_once)
    at_the_step(patch)


def plain(loop: Loop, batches: list[Batch]) -> None:
    loop.backward(batches)
    loop.optimizer.step()


def clipped(loop: Loop, batches: list[Batch]) -> None:
    loop.backward(batches)
    nn.utils.clip_grad_norm_(loop.model.parameters(), 0.05)
    loop.optimizer.step()


def clipped_by_value(loop: Loop, batches: list[Batch]) -> None:
    loop.backward(batches)
    nn.utils.clip_grad_value_(loop.model.parameters(), 0.002)
    loop.optimizer.step()


def replaced(loop: Loop, batches: list[Batch]) -> None:
    """Clipped by hand, out of place."""
    loop.backward(batches)
    for p in loop.model.parameters():
        if p.grad is not None:
            p.grad = 0.3 * p.grad
    loop.optimizer.step()


def middle(model: nn.Module) -> Tensor:
    """A parameter that is neither the first nor the last."""
    parameters = list(model.parameters())
    return parameters[len(parameters) // 2]


def two_passes(loop: Loop, batches: list[Batch]) -> None:
    """The second loss reaches one parameter only, of which nobody has heard."""
    loop.backward(batches)
    (0.1 * middle(loop.model).square().sum()).backward()
    loop.optimizer.step()


def and_its_gradient(model: nn.Module, found: list[Tensor | None]) -> list[Tensor | None]:
    at = next(i for i, p in enumerate(model.parameters()) if p is middle(model))
    assert found[at] is not None
    found[at] = found[at] + 0.2 * middle(model).detach().double()
    return found


def checkpointed(reentrant: bool) -> Body:
    def body(loop: Loop, batches: list[Batch]) -> None:
        loop.optimizer.zero_grad()
        for x, y in batches:
            out = checkpoint(loop.model, x.clone().requires_grad_(), use_reentrant=reentrant)
            (nn.functional.cross_entropy(out, y) / len(batches)).backward()
        nn.utils.clip_grad_norm_(loop.model.parameters(), 0.05)
        loop.optimizer.step()

    return body


def scaled(loop: Loop, batches: list[Batch]) -> None:
    assert loop.scaler is not None
    if loop.step == 2:  # an overflow
        loop.optimizer.zero_grad()
        loop.scaler.scale(exact.loss_of(loop.model, batches[0]) * 1e36).backward()
    else:
        loop.backward(batches)
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()


def scaled_and_clipped(loop: Loop, batches: list[Batch]) -> None:
    assert loop.scaler is not None
    loop.backward(batches)
    loop.scaler.unscale_(loop.optimizer)
    nn.utils.clip_grad_norm_(loop.model.parameters(), 0.05)
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()


def closure(loop: Loop, batches: list[Batch]) -> None:
    loop.optimizer.step(lambda: loop.backward(batches))


def fused(m: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=DECAY, fused=True)


def foreach(m: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=DECAY, foreach=True)


def quasi_newton(m: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=4)


REGIMES = {
    "accumulated": Regime(plain, first_pass_only, micro=3),
    "clipped": Regime(clipped, at_the_step),
    "clipped, foreach": Regime(clipped, at_the_step, foreach),
    "clipped by value": Regime(clipped_by_value, at_the_step),
    "replaced": Regime(replaced, at_the_step),
    "accumulated and clipped": Regime(clipped, at_the_step, micro=2),
    "scaled": Regime(scaled, blind_to_scalers, scaled=True, overflows=2),
    "scaled, fused": Regime(scaled, blind_to_scalers, fused, scaled=True, overflows=2),
    "scaled and clipped": Regime(scaled_and_clipped, blind_to_scalers, scaled=True),
    "closure": Regime(closure, before_the_closure),
    "LBFGS": Regime(closure, before_the_closure, quasi_newton),
    "two passes": Regime(two_passes, trusting, twin=and_its_gradient),
    "checkpointed": Regime(checkpointed(False), at_the_step, micro=2),
    "checkpointed, reentrant": Regime(checkpointed(True), at_the_step, micro=2),
}


def drive(
    regime: Regime, build: Callable[[], nn.Module], path: Path, **options: object
) -> tuple[xr.Dataset, list[Row | None]]:
    torch.manual_seed(0)
    model = build()
    optimizer = regime.make(model)
    decay = optimizer.param_groups[0].get("weight_decay", 0.0)
    rows: list[Row | None] = []
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if regime.scaled else None
    with gradscope.record(model, optimizer, path, on_failure="ignore", **options) as run:  # type: ignore[arg-type]
        loop = Loop(model, optimizer, run, scaler)
        for loop.step, batches in enumerate(exact.micro_batches(STEPS, regime.micro)):
            overflow = loop.step == regime.overflows
            found = regime.twin(model, exact.gradients(model, batches))
            rows.append(None if overflow else exact.row(model, found, decay))
            regime.body(loop, batches)
    with gradscope.open_run(path) as dataset:
        return dataset.load(), rows


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", REGIMES)
def test_numbers_equal_the_twin(tmp_path: Path, name: str, model: str) -> None:
    dataset, rows = drive(REGIMES[name], MODELS[model], tmp_path / "r.h5")
    exact.equal(dataset, rows)
    skipped = dataset["skipped"].values.tolist()
    assert skipped == [i == REGIMES[name].overflows for i in range(STEPS)]


@pytest.mark.parametrize("name", REGIMES)
def test_without_its_handling_the_numbers_are_wrong(tmp_path: Path, name: str, monkeypatch: Patch) -> None:
    """The test above would notice."""
    REGIMES[name].sabotage(monkeypatch)
    with pytest.raises(AssertionError):
        exact.equal(*drive(REGIMES[name], MODELS["mlp"], tmp_path / "r.h5"))


@pytest.mark.parametrize("model", MODELS)
def test_the_clip_coefficient(tmp_path: Path, model: str) -> None:
    """Norm after by norm before; 1 where nothing was clipped, NaN where single entries were."""
    dataset, rows = drive(REGIMES["clipped"], MODELS[model], tmp_path / "a.h5")
    norms = [np.sqrt(np.nansum(np.square(row["loss_gradient_norm"]))) for row in rows if row]
    np.testing.assert_allclose(dataset["clip_coefficient"], [min(1.0, 0.05 / (n + 1e-6)) for n in norms], rtol=1e-4)
    amp, _ = drive(REGIMES["scaled and clipped"], MODELS[model], tmp_path / "b.h5")
    np.testing.assert_allclose(amp["clip_coefficient"].values, dataset["clip_coefficient"].values, rtol=1e-3)
    by_value, _ = drive(REGIMES["clipped by value"], MODELS[model], tmp_path / "c.h5")
    assert np.isnan(by_value["clip_coefficient"].values).all()
    not_clipped, _ = drive(Regime(plain, trusting), MODELS[model], tmp_path / "d.h5")
    assert (not_clipped["clip_coefficient"].values == 1).all()
    by_hand, _ = drive(REGIMES["replaced"], MODELS[model], tmp_path / "e.h5")
    np.testing.assert_allclose(by_hand["clip_coefficient"].values, 0.3, rtol=1e-5)


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_optimizers_inside_the_backward_pass(tmp_path: Path, model: str, handled: bool, monkeypatch: Patch) -> None:
    """One optimizer a parameter, that steps as soon as its gradient is there and drops it."""
    if not handled:  # measured when the pass is over, the gradients are gone
        monkeypatch.setattr(Meter, "after_backward", lambda self, row: self._measure(row, self._gradients()))
        trusting(monkeypatch)
    torch.manual_seed(0)
    net = MODELS[model]()
    optimizers = {p: torch.optim.SGD([p], lr=0.05, weight_decay=DECAY) for p in net.parameters()}

    def step(p: Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    rows: list[Row | None] = []
    with gradscope.record(net, list(optimizers.values()), tmp_path / "r.h5", on_failure="ignore"):
        for batches in exact.micro_batches(STEPS):
            rows.append(exact.row(net, exact.gradients(net, batches), DECAY))
            exact.loss_of(net, batches[0]).backward()
    with gradscope.open_run(tmp_path / "r.h5") as dataset, noticed(not handled):
        exact.equal(dataset, rows)


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("model", ["mlp", "convnet", "recurrent"])
def test_weights_in_bfloat16(tmp_path: Path, model: str, handled: bool, monkeypatch: Patch) -> None:
    """The statistics of the gradients as they are, accumulated in float32 or better."""
    if not handled:  # sums in the weights' own precision
        monkeypatch.setattr(statistics, "_wide", lambda dtype, device: dtype)
    torch.manual_seed(0)
    net = MODELS[model]().bfloat16()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=DECAY)
    rows: list[Row | None] = []
    with gradscope.record(net, optimizer, tmp_path / "r.h5", on_failure="ignore"):
        for batches in exact.micro_batches(STEPS):
            optimizer.zero_grad()
            exact.loss_of(net, batches[0]).backward()
            rows.append(exact.row(net, [p.grad for p in net.parameters()], DECAY))
            nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            optimizer.step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset, noticed(not handled):
        exact.equal(dataset, rows)


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("compiled", ["before", "after"])
def test_compiled_models(tmp_path: Path, compiled: str, handled: bool, monkeypatch: Patch) -> None:
    """Plain names, right numbers, and not one graph break more."""
    if not handled:  # the hooks do in compiled code what they do outside
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
        with pytest.raises(Unsupported):
            compiled_run(tmp_path / "r.h5", compiled)
        return
    net, rows = compiled_run(tmp_path / "r.h5", compiled)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        exact.equal(dataset, rows)
        assert dataset["parameter"].values.tolist() == [name for name, _ in net.named_parameters()]


def compiled_run(path: Path, compiled: str) -> tuple[nn.Module, list[Row | None]]:
    torch.manual_seed(0)
    net = MODELS["mlp"]()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=DECAY)
    fast = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled == "before" else None
    rows: list[Row | None] = []
    with gradscope.record(fast or net, optimizer, path, on_failure="ignore", preset="standard"):
        fast = fast or torch.compile(net, backend="aot_eager", fullgraph=True)
        for batches in exact.micro_batches(STEPS):
            rows.append(exact.row(net, exact.gradients(net, batches), DECAY))
            optimizer.zero_grad()
            nn.functional.cross_entropy(fast(batches[0][0]), batches[0][1]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            optimizer.step()
    return net, rows


@pytest.mark.parametrize("handled", [True, False])
def test_frozen_and_thawed_during_a_run(tmp_path: Path, handled: bool, monkeypatch: Patch) -> None:
    if not handled:  # no gradient is a gradient of zero
        monkeypatch.setattr(
            Meter, "_gradients", lambda self: [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]
        )
    torch.manual_seed(0)
    net = MODELS["mlp"]()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=DECAY)
    first = net[0]
    rows: list[Row | None] = []
    with gradscope.record(net, optimizer, tmp_path / "r.h5", on_failure="ignore"):
        for step, batches in enumerate(exact.micro_batches(STEPS)):
            first.requires_grad_(step not in (2, 3))
            optimizer.zero_grad()
            exact.loss_of(net, batches[0]).backward()
            rows.append(exact.row(net, [p.grad for p in net.parameters()], DECAY))
            nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            optimizer.step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset, noticed(not handled):
        assert np.isnan(dataset["loss_gradient_norm"].values[2:4, :2]).all()
        exact.equal(dataset, rows)


def other_order(parameter: Tensor) -> None:
    parameter.grad = parameter.grad.contiguous()


@pytest.mark.parametrize("sabotaged", [False, True], ids=["", "sabotaged"])
@pytest.mark.filterwarnings("ignore:grad and param do not obey")
def test_memory_in_channels_last_and_none_at_all(tmp_path: Path, sabotaged: bool, monkeypatch: Patch) -> None:
    """The gradients lie in the other order than their weights, as where a loop has made them anew."""
    if sabotaged:

        def whatever_the_order(self: Addresses, weights: list, gradients: list) -> tuple[list[int], list[int]]:
            return [t.data_ptr() or NOWHERE for t in (*weights, *gradients)], []

        monkeypatch.setattr(Addresses, "read", whatever_the_order)
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 4, (2, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    net.register_parameter("nothing", nn.Parameter(torch.empty(0, 3)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=DECAY)
    rows = []
    with gradscope.record(net, optimizer, tmp_path / "r.h5", on_failure="ignore", select=r"^\d") as run:
        for batches in exact.micro_batches(STEPS):
            rows.append(exact.row(nn.Sequential(*net), exact.gradients(net, batches)[1:], DECAY))
            optimizer.zero_grad()
            inside = net[1].weight.register_post_accumulate_grad_hook(other_order)
            exact.loss_of(net, batches[0]).backward()
            inside.remove()
            assert net[1].weight.stride() != net[1].weight.grad.stride()
            optimizer.step()
            run.log(tag=1)
    with gradscope.open_run(tmp_path / "r.h5") as dataset, noticed(sabotaged):
        exact.equal(dataset, rows)
    if sabotaged:
        return
    with gradscope.record(net, optimizer, tmp_path / "s.h5", on_failure="ignore"):
        exact.loss_of(net, batches[0]).backward()
        optimizer.step()
    with gradscope.open_run(tmp_path / "s.h5") as dataset:
        assert dataset["weight_norm"].sel(parameter="nothing").values.tolist() == [0.0]
