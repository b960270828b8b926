"""Forwards that no step is made of, and values that are logged before the backward pass."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import gradscope
from gradscope.recorder.listeners import forwards
from gradscope.recorder.meter import Meter
from tests.helpers.loops import batches, mlp

EACH = {"activations": 1}
loss_of = nn.functional.cross_entropy


def nan(model: nn.Module, x: Tensor, y: Tensor) -> None:
    assert not torch.isfinite(loss_of(model(x * float("nan")), y))


def memory_in_forward(model: nn.Module, x: Tensor, y: Tensor) -> None:
    handle = model[2].register_forward_pre_hook(raises)  # type: ignore[index]
    try:
        model(x * 1000)
    except torch.OutOfMemoryError:
        pass
    finally:
        handle.remove()


def memory_in_backward(model: nn.Module, x: Tensor, y: Tensor) -> None:
    loss = loss_of(model(x * 1000), y)
    handle = model[2].weight.register_hook(raises)  # type: ignore[index]
    try:
        loss.backward()
    except torch.OutOfMemoryError:
        pass
    finally:
        handle.remove()
    model.zero_grad()


def raises(*_: Any) -> None:
    raise torch.OutOfMemoryError("simulated")


def evaluation(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for scale in range(1, 30):
        loss_of(model(x * 10 * scale), y)


def adversarial(model: nn.Module, x: Tensor, y: Tensor) -> None:
    other = (x * 100).requires_grad_()
    torch.autograd.grad(loss_of(model(other), y), other)


def cleared(model: nn.Module, x: Tensor, y: Tensor) -> None:
    loss_of(model(x * 100), y).backward()
    model.zero_grad()


def zeroed(model: nn.Module, x: Tensor, y: Tensor) -> None:
    loss_of(model(x * 100), y).backward()
    model.zero_grad(set_to_none=False)


def inference(model: nn.Module, x: Tensor, y: Tensor) -> None:
    with torch.inference_mode():
        model(x * 100)


KEPT: list[Tensor] = []


def probe_kept(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Its graph is still there when the step comes."""
    KEPT[:] = [model(x * 100)]


SKIPPED = (nan, memory_in_forward, memory_in_backward, evaluation, adversarial, cleared, zeroed, inference, probe_kept)


def recorded(
    path: Path,
    skip: Callable[[nn.Module, Tensor, Tensor], None],
    preset: str = "standard",
    model: nn.Module | None = None,
    call: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x),
) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Mean |a| of the first layer: recorded, of the batches trained on (in float64), and ``capture``."""
    model = model or mlp()
    net: nn.Module = getattr(model, "net", model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    want = []
    options: dict[str, Any] = {"every": EACH, "on_failure": "ignore", "preset": preset}
    with gradscope.record(model, optimizer, path, **options) as run:
        for step, (x, y) in enumerate(batches(8)):
            if step in (0, 3, 4):
                skip(model, x, y)
            with torch.no_grad():
                first = net[0]  # type: ignore[index]
                want.append((x.double() @ first.weight.double().T + first.bias.double()).abs().mean().item())
            optimizer.zero_grad()
            loss = loss_of(call(model, x), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(path) as dataset:
        return dataset["activation_mean_abs"].values[:, 0], np.array(want), json.loads(dataset.attrs["capture"])


@pytest.mark.parametrize("preset", ["standard", "full"])
@pytest.mark.parametrize("skip", SKIPPED)
def test_forwards_without_a_step_are_left_out(tmp_path: Path, skip: Any, preset: str) -> None:
    got, want, capture = recorded(tmp_path / "r.h5", skip, preset)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    if skip not in (memory_in_backward, inference, probe_kept):
        assert int(capture["forwards_left_out"].split()[0]) >= 3


@pytest.mark.parametrize("skip", [s for s in SKIPPED if s is not inference])
def test_they_need_their_handling(tmp_path: Path, skip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards.Shares, "begin", lambda self: setattr(self, "between", False))
    monkeypatch.setattr(forwards.Shares, "settle", lambda self: True)
    got, want, _ = recorded(tmp_path / "r.h5", skip)
    assert not np.allclose(got, want, rtol=1e-2)


class Holder(nn.Module):
    """Never called itself, as a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()


def test_a_model_whose_parts_are_called(tmp_path: Path) -> None:
    got, want, _ = recorded(
        tmp_path / "r.h5",
        lambda model, x, y: evaluation(model.net, x, y),  # type: ignore[arg-type]
        model=Holder(),
        call=lambda model, x: model.net(x),  # type: ignore[operator]
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def twin(outputs: list[Tensor]) -> tuple[float, float]:
    """Mean |a|, and the RMS over units of the std, of these outputs together, in float64."""
    a = torch.cat(outputs).double()
    return a.abs().mean().item(), a.var(0, correction=0).mean().sqrt().item()


def between_micro_batches(model: nn.Module, x: Tensor, y: Tensor, used: Any) -> None:
    loss_of(model(used(x)), y).backward()
    loss_of(model(x * 100), y)
    loss_of(model(used(3 * x)), y).backward()
    model(x * 50)


def a_kept_probe_between_micro_batches(model: nn.Module, x: Tensor, y: Tensor, used: Any) -> None:
    loss_of(model(used(x)), y).backward()
    kept = loss_of(model(x * 100), y)
    loss_of(model(used(3 * x)), y).backward()
    KEPT[:] = [kept, model(x * 50)]


LOOPS: dict[str, Callable[[nn.Module, Tensor, Tensor, Any], None]] = {
    "two forwards, one backward": lambda m, x, y, used: sum(
        loss_of(m(used(part)), y) for part in (x, 2 * x)
    ).backward(),  # type: ignore[union-attr]
    "micro-batches, a skipped one between them": between_micro_batches,
    "micro-batches, with probes that are kept": a_kept_probe_between_micro_batches,
    "many forwards, one backward": lambda m, x, y, used: sum(
        loss_of(m(used(scale * x)), y) for scale in range(1, 13)
    ).backward(),  # type: ignore[union-attr]
    "a gradient penalty": lambda m, x, y, used: (
        loss_of(m(used(x)), y)
        + torch.autograd.grad(m(used(part := (2 * x).requires_grad_())).tanh().sum(), part, create_graph=True)[0]
        .square()
        .sum()
    ).backward(),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_several_forwards_of_a_step_are_pooled(tmp_path: Path, kind: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    want = []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", every=EACH, on_failure="ignore"):
        for x, y in batches(4):
            mine: list[Tensor] = []

            def used(given: Tensor, mine: list[Tensor] = mine) -> Tensor:
                with torch.no_grad():
                    mine.append(nn.functional.linear(given, model[0].weight, model[0].bias))
                return given

            optimizer.zero_grad()
            LOOPS[kind](model, x, y, used)
            want.append(twin(mine))
            optimizer.step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        got = dataset[["activation_mean_abs", "activation_std"]].isel(module=0).to_array().values.T
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_what_cannot_be_told_apart_is_nan_and_said(tmp_path: Path) -> None:
    """More forwards wait than are kept apart, and then one of them turns out to be of no step."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", every=EACH, on_failure="ignore"):
        for step, (x, y) in enumerate(batches(4)):
            optimizer.zero_grad()
            losses = [loss_of(model(x), y) for _ in range(forwards.Shares.MOST + 4)]
            if step == 2:
                losses.pop()
            torch.stack(losses).sum().backward()
            del losses
            optimizer.step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        found = np.isnan(dataset["activation_mean_abs"].values).all(1)
        assert found.tolist() == [False, False, True, False]
        assert json.loads(dataset.attrs["capture"])["forwards_not_told_apart"].startswith("1 rows have no activations")


def test_zeros_that_a_busy_device_would_have_to_tell_are_nan_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter, "cleared", lambda self: None)
    got, want, capture = recorded(tmp_path / "r.h5", zeroed)
    skipped = np.isin(np.arange(8), (0, 3, 4))
    assert np.isnan(got[skipped]).all()
    np.testing.assert_allclose(got[~skipped], want[~skipped], rtol=1e-5)
    assert capture["forwards_not_told_apart"].startswith("3 rows have no activations")


def test_a_generators_forward_for_the_other_loss_counts(tmp_path: Path) -> None:
    """Its graph waits while the discriminator steps; nothing of it is left out."""
    both = nn.ModuleDict({"g": nn.Linear(6, 6), "d": nn.Linear(6, 1)})
    g, d = both["g"], both["d"]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in (d, g)]
    want = []
    with gradscope.record(both, optimizers, tmp_path / "r.h5", every=EACH, on_failure="ignore"):
        for x, _ in batches(5):
            with torch.no_grad():
                want.append(nn.functional.linear(x, g.weight, g.bias).abs().mean().item())  # type: ignore[arg-type]
            fake = g(x)
            d.zero_grad()
            (d(fake.detach()).mean() - d(x).mean()).backward()
            optimizers[0].step()
            g.zero_grad()
            d(fake).mean().neg().backward()
            optimizers[1].step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["activation_mean_abs"].sel(module="g").values, want, rtol=1e-5)


# -- log --------------------------------------------------------------------------------------------


def logged(path: Path, loop: Callable[..., None], every: Any = 1) -> tuple[list[float], list[float], dict[str, Any]]:
    """The recorded loss, the loss of each step, and ``capture``."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own: list[float] = []
    with gradscope.record(model, optimizer, path, every=every, on_failure="ignore") as run:
        for x, y in batches(10):
            loop(model, optimizer, run, x, y, own)
    with gradscope.open_run(path) as dataset:
        found = dataset["loss"].values.tolist() if "loss" in dataset else []
        return found, own, json.loads(dataset.attrs["capture"])


def before_backward(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
    loss = loss_of(model(x), y)
    run.log(loss=loss)
    own.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def before_backward_as_a_number(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
    loss = loss_of(model(x), y)
    own.append(loss.item())
    run.log(loss=own[-1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def between_backward_and_step(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
    loss = loss_of(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    run.log(loss=loss)
    own.append(loss.item())
    optimizer.step()


def after_the_step(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
    loss = loss_of(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(loss=loss)
    own.append(loss.item())


def after_an_evaluation(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
    """In training mode."""
    loss = loss_of(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model(x)
    own.append(loss.item())
    run.log(loss=own[-1])


def after_the_next_forward(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
    loss = loss_of(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    other = loss_of(model(x), y)
    run.log(loss=loss)
    own.append(loss.item())
    del other


ORDERS = (
    before_backward,
    before_backward_as_a_number,
    between_backward_and_step,
    after_the_step,
    after_an_evaluation,
    after_the_next_forward,
)


@pytest.mark.parametrize("order", ORDERS)
def test_a_loss_joins_the_row_of_its_own_step(tmp_path: Path, order: Any) -> None:
    got, own, _ = logged(tmp_path / "r.h5", order)
    np.testing.assert_allclose(got, own, rtol=1e-6)


@pytest.mark.parametrize("as_number", [True, False])
def test_the_loss_of_a_skipped_batch_replaces_no_other(tmp_path: Path, as_number: bool) -> None:
    def order(model: Any, optimizer: Any, run: Any, x: Tensor, y: Tensor, own: list[float]) -> None:
        skipped = loss_of(model(x), y) * float("nan")
        run.log(loss=skipped.item() if as_number else skipped)
        before_backward(model, optimizer, run, x, y, own)

    got, own, _ = logged(tmp_path / "r.h5", order)
    np.testing.assert_allclose(got, own, rtol=1e-6)


def test_every_fifth_row_has_its_own_loss(tmp_path: Path) -> None:
    for order in ORDERS:
        got, own, capture = logged(tmp_path / f"{order.__name__}.h5", order, every=5)
        np.testing.assert_allclose(got, own[::5], rtol=1e-6)
        assert capture["logged_between_rows"] == {"not_recorded": {"loss": 8}, "rows": "every 5"}


def test_values_that_never_meet_a_row_are_warned_about(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = gradscope.record(model, optimizer, tmp_path / "r.h5", every=5, on_failure="ignore")
    with pytest.warns(UserWarning, match=r"log\(accuracy=…\) was called at 16 steps and at none that is recorded"):
        for step, (x, y) in enumerate(batches(200)):
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
            run.log(loss=1.0)
            if step % 10 == 9:
                run.log(accuracy=0.5)
    run.close()


def test_a_logged_loss_does_not_keep_its_graph(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = next(batches(1))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(2):
            output = model(x)
            loss = loss_of(output, y)
            run.log(loss=loss)
            loss.backward()
            optimizer.step()
            run.log(again=loss)
            seen = weakref.ref(output)
            del output, loss
            gc.collect()
            assert seen() is None
