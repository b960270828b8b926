"""Kinds of tensors: none of them ends a training or is read as something else; what is not read is named."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.recorder.kernels import addresses, statistics
from gradscope.recorder.kernels.addresses import NOWHERE, Addresses
from gradscope.recorder.kernels.kinds import Unreadable, entries, is_plain
from gradscope.recorder.kernels.table import TablePlan
from tests.helpers.loops import batches, mlp, train
from tests.helpers.paths import ROOT
from tests.scripts.fuzz_kinds import FROZEN, OUTPUTS, Wrapped, _freed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:.*nested tensors|.*CSR|.*quantize")
FACTORIES = {"zeros", "ones", "empty", "full", "tensor", "arange", "eye", "linspace", "rand", "randn", "as_tensor"}


def fuzz(first: int, stop: int) -> dict[str, int]:
    """In a process of its own, so that a fault of memory is seen and ends nothing else."""
    command = [sys.executable, "-m", "tests.scripts.fuzz_kinds", str(first), str(stop)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert counts["right"] + counts["skipped"] == stop - first and counts["right"] > 0.9 * (stop - first)
    return counts


@pytest.mark.thorough
def test_fuzz() -> None:
    print(fuzz(0, 24))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_fuzz_at_length(part: int) -> None:
    print(fuzz(24 + 250 * part, 274 + 250 * part))


def test_what_the_recorder_allocates_says_its_dtype_and_device() -> None:
    """A script may have set other defaults: kernels would read what follows from them as something else."""
    calls = 0
    for path in (ROOT / "gradscope" / "recorder").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "torch" and node.func.attr in FACTORIES:
                calls += 1
                assert {"dtype", "device"} <= {k.arg for k in node.keywords}, f"{path}:{node.lineno}"
    assert calls


@pytest.mark.parametrize("kind", [k for k in OUTPUTS if k != "holds itself"])
def test_entries_are_those_of_the_tensor_or_refused(kind: str) -> None:
    made = OUTPUTS[kind][0](torch.linspace(-2, 1, 20).reshape(5, 4))
    tensor = made[0] if isinstance(made, tuple) else made
    refused = {"wrapper", "quantized", "four bits", "integers", "freed", "meta"}
    if kind in refused:
        with pytest.raises(Unreadable):
            entries(tensor)
        return
    found = entries(tensor)
    assert is_plain(found.resolve_conj().resolve_neg()) and type(found) is Tensor and found.layout is torch.strided
    if not tensor.is_nested:
        plain = tensor.to_dense() if tensor.layout is not torch.strided else tensor
        np.testing.assert_array_equal(
            found.resolve_neg().numpy(), plain.as_subclass(Tensor).to(found.dtype).resolve_neg().numpy()
        )
    else:
        assert found.tolist() == torch.cat(tensor.unbind()).tolist()


# -- what changes between two steps ---------------------------------------------------------------------


def _retyped(p: Tensor) -> None:
    p.data = p.data.view(torch.int32).view(torch.float16)[:, ::2].contiguous()


def _as_bits(p: Tensor) -> None:
    p.data = p.data.view(torch.int32)


def _turned(p: Tensor) -> None:
    p.data = p.data.t()


def _cut(p: Tensor) -> None:
    p.data = p.data[:2]


def _given_back(p: Tensor) -> None:
    p.untyped_storage().resize_(0)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("change", [_as_bits, _turned, _cut, _given_back, _retyped])
def test_an_address_is_believed_for_what_was_asked_at_that_step(
    change: Callable[[Tensor], None], at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An assignment to ``.data`` leaves no mark, and may leave the address."""
    if not at_once:
        monkeypatch.setattr(addresses, "_alike", lambda tensors: None)
    weight = torch.randn(4, 4)
    reader = Addresses([weight])
    assert reader.read([weight], [None]) == ([weight.data_ptr(), 0], [])
    assert (reader._weights_alike is not None) == at_once
    change(weight)
    assert reader.read([weight], [None]) == ([0, 0], [0])
    weight, gradient = torch.randn(4, 4), torch.randn(4, 4)
    for _ in range(2):
        assert reader.read([weight], [gradient]) == ([weight.data_ptr(), gradient.data_ptr()], [])
    change(gradient)
    assert reader.read([weight], [gradient]) == ([0, 0], [0])


def test_any_parameters_may_lack_a_gradient_at_any_step() -> None:
    weights = [torch.randn(4), torch.randn(0), torch.randn(3)]
    reader = Addresses(weights)
    for number in range(24):
        gradients = [None if number >> i & 1 else torch.randn_like(w) for i, w in enumerate(weights)]
        at, odd = reader.read(weights, gradients)
        places = [0 if g is None else g.data_ptr() or NOWHERE for g in gradients]
        assert odd == [] and at == [w.data_ptr() or NOWHERE for w in weights] + places


def test_an_address_alone_would_be_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out: bits of integers are read as numbers."""
    monkeypatch.setattr(Addresses, "_fit", lambda self, *tensors: True)
    weight = torch.randn(4, 4)
    reader = Addresses([weight])
    reader.read([weight], [None])
    _as_bits(weight)
    assert reader.read([weight], [None])[1] == []


@pytest.mark.parametrize("kind", ["negated", "subclass", "wrapper", "freed", "sparse", "other order"])
def test_gradients_of_other_kinds_are_odd(kind: str) -> None:
    weight, g = torch.randn(4, 4), torch.randn(4, 4)
    gradient = {
        "negated": lambda: torch._neg_view(g)[:, ::2].contiguous(),
        "subclass": lambda: g.as_subclass(nn.Buffer) if hasattr(nn, "Buffer") else g.to_sparse(),
        "wrapper": lambda: Wrapped(g),
        "freed": lambda: _freed(g),
        "sparse": lambda: g.to_sparse(),
        "other order": lambda: g.t(),
    }[kind]()
    if kind == "negated":
        gradient = torch.randn(16, 2)
    assert Addresses([weight]).read([weight], [gradient])[1] == [0]


@pytest.mark.parametrize("kind", list(FROZEN))
def test_parameters_of_all_kinds_are_read_or_named(kind: str) -> None:
    weights = [torch.randn(3), FROZEN[kind]()]
    if weights[1].is_meta:
        return  # on a device of its own
    plan = TablePlan(weights, statistics.QUANTITIES)
    out = torch.full((len(statistics.QUANTITIES), 2), float("nan"))
    plan(weights, [torch.randn(3), None], out)
    assert not out[:, 0].isnan().any()
    assert (1 in plan.unread) == bool(out[statistics.QUANTITIES.index("weight_norm"), 1].isnan())


def test_a_weight_of_another_size_has_no_means_and_is_named(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD([{"params": model.parameters()}], lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", preset="full", on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(4)):
            if step == 2:
                for layer, name in ((model[2], "weight"), (model[2], "bias"), (model[4], "weight")):
                    p = getattr(layer, name)
                    p.data = p.data[:5] if layer is model[2] else p.data[:, :5]
                    p.grad = loss = None  # the graph knows the old shape
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "run.h5") as data:
        changed = ["2.bias", "2.weight", "4.weight"]
        named = json.loads(data.attrs["capture"])["not_read"]
        assert sorted(named) == changed
        mean = data["weight_mean_abs"].sel(parameter=changed).values
        assert np.isfinite(mean[:2]).all() and np.isnan(mean[2:]).all()
        assert np.isfinite(data["weight_norm"]).all() and np.isfinite(data["loss_gradient_norm"]).all()
        assert np.isfinite(data["weight_mean_abs"].sel(parameter="0.weight")).all()
        assert np.isnan(data["update_mean_abs"].sel(parameter=changed)[2:]).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("part", [False, True])
def test_what_torch_jit_has_made_is_recorded_without_activations(tmp_path: Path, part: bool) -> None:
    model = mlp()
    if part:
        model[0] = torch.jit.script(model[0])
    else:
        model = torch.jit.script(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.2)
    expected = []
    with gradscope.record(model, optimizer, tmp_path / "run.h5", preset="full", on_failure="ignore") as run:

        def look(step: int) -> None:
            expected.append([p.grad.abs().mean().item() for p in model.parameters() if p.grad is not None])

        train(model, optimizer, 4, run, each=look)
    with gradscope.open_run(tmp_path / "run.h5") as data:
        np.testing.assert_allclose(data["loss_gradient_mean_abs"].values, expected, rtol=1e-5)
        unseen = json.loads(data.attrs["capture"])["modules_not_seen"]
        seen = np.isfinite(data["activation_mean_abs"].values).all(0)
    assert unseen["0"] == "made by torch.jit, which takes no hooks"
    assert seen.tolist() == [False, True, True, True, True] if part else not seen.any()


def test_a_model_without_numbers_is_refused(tmp_path: Path) -> None:
    model = mlp().to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(gradscope.InputError, match="meta"):
        gradscope.record(model, optimizer, tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()


def test_an_error_in_measuring_is_named_and_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken(*of: object) -> None:
        raise RuntimeError("something that nobody thought of")

    with gradscope.record(model, optimizer, tmp_path / "run.h5", preset="cheap", on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(3)):
            if step == 1:
                monkeypatch.setattr(TablePlan, "__call__", broken)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if step == 1:
                with pytest.warns(UserWarning, match="not measured, RuntimeError: something that nobody thought of"):
                    optimizer.step()
                monkeypatch.undo()
            else:
                optimizer.step()
            run.log(loss=0.0)
    with gradscope.open_run(tmp_path / "run.h5") as data:
        assert np.isnan(data["weight_norm"].values).all(1).tolist() == [False, True, False]
        assert json.loads(data.attrs["capture"])["not_read"] == {
            "step 1": "RuntimeError: something that nobody thought of"
        }
