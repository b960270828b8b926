"""Whatever else is done with a watched model works as without a recording, and leaves the numbers right."""

from __future__ import annotations

import copy
import copyreg
import json
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.recorder.listeners.activations import Activations
from gradscope.torch_utils import module_hooks
from tests.helpers.loops import batches, mlp, recorded
from tests.helpers.paths import ROOT

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no other test of this process had left a watched module behind, and none of these did."""
    for kind in hidden():
        monkeypatch.delitem(copyreg.dispatch_table, kind)
    monkeypatch.setattr(module_hooks, "_HIDDEN", Counter())
    monkeypatch.setattr(module_hooks, "_REDUCERS", {})
    if module_hooks._SCRIPTS.observers:
        own = module_hooks._SCRIPTS.originals["create_script_module"]
        monkeypatch.setattr(torch.jit._recursive, "create_script_module", own)
        monkeypatch.setattr(module_hooks._SCRIPTS, "observers", [])
    yield
    for kind in hidden():
        del copyreg.dispatch_table[kind]


def hidden() -> list[type]:
    """Classes whose modules are copied without the hooks of a recording."""
    return [kind for kind, reduce in copyreg.dispatch_table.items() if reduce is module_hooks._reduced]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


class Keeps(nn.Linear):
    """A layer with a state of its own making."""

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "said": "kept"}


def seen(module: nn.Module, inputs: object, output: object) -> None:
    """A hook of the script's own."""


# -- copies, pickles, scripts ---------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_saved_model_loads_where_there_is_no_gradscope(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    with gradscope.record(model, optimizer, tmp_path / "run.h5", preset="full", on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(2)):
            torch.save({"model": model, "optimizer": optimizer}, tmp_path / f"{step}.pt")
            optimizer.zero_grad()
            cross_entropy(model, x, y).backward()
            optimizer.step()
            run.log(loss=0.0)
        torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys; sys.modules['gradscope'] = None\n"
        "import torch; from torch import nn\n"
        "torch.serialization.add_safe_globals([nn.Sequential, nn.Linear, nn.ReLU])\n"
        f"model = torch.load({str(tmp_path / 'model.pt')!r}); model(torch.randn(2, 6))\n"
        f"for n in 0, 1: torch.load(f'{tmp_path}/{{n}}.pt', weights_only=False)\n"
        "print(any(m._forward_hooks for m in model.modules()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr
    assert b"gradscope" not in (tmp_path / "model.pt").read_bytes()


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_all_but_the_recording(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(Keeps(6, 3), nn.ReLU())
    handle = model[0].register_forward_hook(seen)
    watch = Activations({"0": model[0], "1": model[1]}, True, model)
    model[0].register_forward_hook(seen)
    other = copied(model[0])
    assert list(other._forward_hooks.values()) == [seen, seen] and other.said == "kept"
    assert len(model[0]._forward_hooks) == 3
    handle.remove()
    assert len(model[0]._forward_hooks) == 2
    watch.detach()
    assert not {Keeps, nn.ReLU} & copyreg.dispatch_table.keys()


def test_a_reducer_of_the_script_is_used_and_given_back() -> None:
    def reducer(module: nn.Module) -> tuple[object, ...]:
        return nn.ReLU, (), {**module.__dict__, "mine": True}

    copyreg.pickle(nn.ReLU, reducer)
    try:
        model = nn.Sequential(nn.ReLU())
        watch = Activations({"0": model[0]}, True, model)
        other = copy.deepcopy(model)
        assert other[0].mine and not other[0]._forward_hooks
        watch.detach()
        assert copyreg.dispatch_table[nn.ReLU] is reducer
    finally:
        del copyreg.dispatch_table[nn.ReLU]


def test_settings_that_hold_a_recording_are_saved_with_its_path(tmp_path: Path) -> None:
    model = mlp()
    path = tmp_path / "run.h5"
    with gradscope.record(model, torch.optim.SGD(model.parameters(), lr=0.1), path, on_failure="ignore") as run:
        settings = {"run": run, "model": model}
        assert copy.deepcopy(settings)["run"] is run
        assert pickle.loads(pickle.dumps(settings))["run"] == str(path)


def look_at(model: nn.Module, how: str) -> object:
    x = torch.randn(2, 6)
    if how == "script":
        return torch.jit.script(model)
    if how == "script a part":
        return torch.jit.script(model[0])
    if how == "script a copy":
        return torch.jit.script(copy.deepcopy(model))
    if how == "trace":
        return torch.jit.trace(model, x)
    if how == "export":
        return torch.export.export(model, (x,))
    if how == "fx":
        return torch.fx.symbolic_trace(model)
    if how == "vmap":
        return torch.func.vmap(model)(x[:, None])
    if how == "jacrev":
        return torch.func.jacrev(model)(x)
    if how == "jvp":
        return torch.func.jvp(model, (x,), (x,))
    if how == "per sample":
        weights = {name: p.detach() for name, p in model.named_parameters()}

        def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
            return torch.func.functional_call(model, weights, (one[None],)).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    assert how == "make_fx"
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(model)(x)


DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
LOOKS = ["script", "script a part", "script a copy", "trace", "fx", "vmap", "jacrev", "jvp", "per sample", "make_fx"]


@DEPRECATED
@pytest.mark.parametrize("how", [*LOOKS, pytest.param("export", marks=pytest.mark.slow)])
def test_a_look_at_a_watched_model_works_and_adds_nothing(how: str) -> None:
    """Between two steps, with activations sampled: the pools are as if nobody had looked, and the hooks are there."""
    torch.manual_seed(0)
    model = mlp()
    watch = Activations(dict(model.named_children()), True, model)
    x = torch.randn(4, 6)
    model(x).sum().backward()
    hooked = [list(m._forward_hooks) for m in model]
    looked = look_at(model, how)
    assert "gradscope" not in str(getattr(looked, "code", "")) + str(getattr(looked, "graph", ""))
    assert [list(m._forward_hooks) for m in model] == hooked
    model(x).sum().backward()
    with_look = watch.take(CPU)
    for _ in range(2):
        model(x).sum().backward()
    torch.testing.assert_close(with_look, watch.take(CPU))
    watch.detach()


def test_hooks_come_back_before_others_which_are_there_all_the_while() -> None:
    """A thread may be in a forward of the model."""

    class NeverEmpty(OrderedDict[int, Any]):
        def clear(self) -> None:
            raise AssertionError("a forward would go without its other hooks")

    module, hooks = nn.Linear(2, 2), module_hooks.ModuleHooks()
    module._forward_hooks = NeverEmpty()
    ours = module_hooks.Hook()
    hooks.after_forward(module, ours)
    hooks.pause()
    assert not module._forward_hooks
    module.register_forward_hook(print)
    hooks.resume()
    assert list(module._forward_hooks.values()) == [ours, print]
    hooks.pause()  # not alone any more: it stays
    assert list(module._forward_hooks.values()) == [ours, print]
    hooks.remove()
    assert list(module._forward_hooks.values()) == [print]


@DEPRECATED
def test_scripts_need_their_handling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out: torch.jit meets a hook that it cannot compile."""
    monkeypatch.setattr(module_hooks._SCRIPTS, "add", lambda observer: None)
    model = mlp()
    watch = Activations(dict(model.named_children()), True, model)
    with pytest.raises(AttributeError, match="__name__"):
        look_at(model, "script")
    watch.detach()


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_forwards_inside_transforms_only_are_named(tmp_path: Path, preset: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "run.h5"
    every = {"activations": 1}
    with gradscope.record(model, optimizer, path, preset=preset, every=every, on_failure="ignore") as run:
        for x, y in batches(2):
            weights = {name: p.detach() for name, p in model.named_parameters()}
            found = torch.func.grad(
                lambda w, x=x, y=y: nn.functional.cross_entropy(torch.func.functional_call(model, w, (x,)), y)
            )(weights)
            for name, p in model.named_parameters():
                p.grad = found[name]
            optimizer.step()
            run.log(loss=0.0)
    with gradscope.open_run(path) as data:
        assert np.isnan(data["activation_mean_abs"]).all() and np.isfinite(data["loss_gradient_norm"]).all()
        assert all("transform" in why for why in json.loads(data.attrs["capture"])["modules_not_seen"].values())


# -- δ ------------------------------------------------------------------------------------------------------


class Puts(nn.Module):
    """Puts out a parameter, as modules of positions and prompts do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 6))

    def forward(self) -> Tensor:
        return self.table


Pass = Callable[[], None]


def plain(model: nn.Module, x: Tensor) -> list[Pass]:
    y = model(x)
    return [lambda: y.square().mean().backward()]


def two_passes(model: nn.Module, x: Tensor) -> list[Pass]:
    y = model(x)
    return [lambda: y.square().mean().backward(retain_graph=True), lambda: (-3 * y.sum()).backward()]


def looked_at(model: nn.Module, x: Tensor) -> list[Pass]:
    given = x.clone().requires_grad_()
    torch.autograd.grad(model(given).sum(), given)
    torch.autograd.grad(model(x).sum(), list(model.parameters()))
    return plain(model, x)


def penalised(model: nn.Module, x: Tensor) -> list[Pass]:
    given = x.clone().requires_grad_()
    y = model(given)
    (inner,) = torch.autograd.grad(y.sum(), given, create_graph=True)
    return [lambda: (y.square().mean() + inner.square().sum()).backward()]


def only_some(model: nn.Module, x: Tensor) -> list[Pass]:
    y = model(x)
    return [lambda: y.square().mean().backward(inputs=[model[0].weight])]


def batched(model: nn.Module, x: Tensor) -> list[Pass]:
    y = model(x)
    many = torch.eye(3, dtype=y.dtype)[:, None].expand(3, len(x), 3).contiguous()
    torch.autograd.grad(y, list(model.parameters()), many, is_grads_batched=True, retain_graph=True)
    return [lambda: y.square().mean().backward()]


class Deltas:
    """Twin: ∂L/∂output of each output in the passes of a step, added up; hooks of the test's own."""

    def __init__(self, model: nn.Module) -> None:
        self.on = False
        self.sums: list[list[Tensor]] = [[] for _ in model]
        self.handles = [m.register_forward_hook(self.hook(i)) for i, m in enumerate(model)]

    def hook(self, i: int) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: object, y: Tensor) -> None:
            total: list[Tensor] = []

            def add(g: Tensor) -> None:
                if self.on and not total:
                    total.append(g.detach().clone())
                    self.sums[i].append(total[0])
                elif self.on:
                    total[0].add_(g.detach())

            y.register_hook(add)

        return keep

    def means(self) -> list[float]:
        for handle in self.handles:
            handle.remove()
        return [float(torch.cat(sums).abs().mean()) for sums in self.sums]


@pytest.mark.parametrize("step", [plain, two_passes, looked_at, penalised, only_some, batched])
def test_delta_is_the_gradient_that_the_step_adds_up(step: Callable[[nn.Module, Tensor], list[Pass]]) -> None:
    """A gradient that is only looked at is none of the step's; of several passes through one output the sum counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 6).double()
    watch = Activations(dict(model.named_children()), True, model)
    for _ in range(2):
        twin = Deltas(model)
        for run in step(model, x):
            twin.on = True
            run()
            twin.on = False
        np.testing.assert_allclose(watch.take(CPU)[3], twin.means(), rtol=1e-5)
    watch.detach()


@pytest.mark.parametrize("taken_out", ["accumulates", "before"])
def test_deltas_need_their_handling(taken_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if taken_out == "accumulates":
        monkeypatch.setattr(Activations, "accumulates", lambda self: True)
        step = looked_at
    else:
        monkeypatch.setattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: False)
        step = two_passes
    with pytest.raises(AssertionError):
        test_delta_is_the_gradient_that_the_step_adds_up(step)


def test_outputs_that_stay_keep_no_hooks() -> None:
    """A parameter that is put out has one hook a row, none after the recording; its δ is that of its gradient."""
    puts = Puts()
    watch = Activations({"puts": puts}, True)
    for _ in range(5):
        puts.table.grad = None
        for _ in range(3):
            (puts() * 2).sum().backward()
        assert len(puts.table._backward_hooks or {}) == 1
        assert watch.take(CPU)[3].tolist() == [6.0]
    puts()
    watch.detach()
    assert not puts.table._backward_hooks


def test_a_recording_of_a_parameter_put_out_leaves_nothing(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.puts, self.last = Puts(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.puts())

    model = Net()
    recorded(tmp_path / "run.h5", model, torch.optim.SGD(model.parameters(), lr=0.1), 4, preset="full")
    assert not model.puts.table._backward_hooks and not any(m._forward_hooks for m in model.modules())


# -- compilers ----------------------------------------------------------------------------------------------


COMPILED = """
import sys, torch, gradscope, numpy as np, warnings
from torch import nn
from tests.helpers.loops import batches, mlp
warnings.simplefilter("ignore")
how, folder, preset, backend = sys.argv[1:]
compiled = lambda function: torch.compile(function, backend=backend)
for number in range(2):
    torch.manual_seed(number)
    model = mlp(); optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    gradscope.regularize(optimizer, gradscope.L1(), 1e-3)
    path, norms, losses = f"{folder}/{number}.h5", [], []
    with gradscope.record(model, optimizer, path, preset=preset, on_failure="ignore") as run:
        step = compiled(lambda: optimizer.step())
        if how == "bound":
            step = optimizer.step = compiled(optimizer.step)
        elif how == "logs":
            step = compiled(lambda: (optimizer.step(), run.log(loss=loss)))
        for x, y in batches(10):
            optimizer.zero_grad(); loss = nn.functional.cross_entropy(model(x), y); loss.backward()
            norms.append([p.grad.norm().item() for p in model.parameters()]); losses.append(loss.item())
            step(); run.log(loss=loss)
    with gradscope.open_run(path) as data:
        np.testing.assert_allclose(data["loss_gradient_norm"], norms, rtol=1e-4)
        np.testing.assert_allclose(data["loss"], losses, rtol=1e-6)
seen = {code.co_filename for code in (found() for found in torch._dynamo.convert_frame.input_codes.seen) if code}
print("looked at", sorted(name for name in seen if "/gradscope/" in name))
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("how", "preset", "backend"),
    [("step", "full", "eager"), ("bound", "standard", "aot_eager"), ("logs", "cheap", "eager")],
)
def test_a_compiled_step_in_several_recordings(tmp_path: Path, how: str, preset: str, backend: str) -> None:
    """The compiler took the addresses of the first recording for constants: the second one faulted."""
    arguments: Sequence[str] = [sys.executable, "-c", COMPILED, how, str(tmp_path), preset, backend]
    root = ROOT
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout == "looked at []\n"
