"""Activation scales against a float64 twin that keeps every output and computes from first principles."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.recorder.kernels import module_rows, unit_statistics
from gradscope.recorder.kernels.unit_statistics import UnitStatistics, place_of_units, unit_axis
from gradscope.recorder.listeners import activations
from gradscope.recorder.listeners.activations import FULL_QUANTITIES, QUANTITIES, Activations
from gradscope.torch_utils.module_hooks import Hook, ModuleHooks

CPU = torch.device("cpu")


class Transformer(nn.Module):
    """Two blocks, the output's weights tied to the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(2))
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.out = nn.LSTM(5, 6, batch_first=True), nn.GRU(6, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        x, _ = self.gru(x)
        return self.out(x[:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (mlp, lambda: torch.randn(12, 5)),
    "conv": (conv, lambda: torch.randn(12, 3, 6, 6)),
    "transformer": (Transformer, lambda: torch.randint(11, (12, 4))),
    "recurrent": (Recurrent, lambda: torch.randn(12, 4, 5)),
}


@pytest.fixture(params=list(NETS))
def net(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make_model, make_input = NETS[request.param]
    return make_model(), make_input()


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that compute something themselves. A multi-head attention calls no out_proj: it never runs."""
    return {name: m for name, m in model.named_modules() if not any(True for _ in m.children())}


def loss_of(output: Tensor) -> Tensor:
    return output.square().mean() + output.sum() / output.numel()


class Twin:
    """Keeps a float64 copy of every output and of its gradient; numpy does the rest."""

    def __init__(self, model: nn.Module, batches: list[Tensor]) -> None:
        self.outputs: dict[str, list[np.ndarray]] = {}
        self.deltas: dict[str, list[np.ndarray]] = {}
        model = copy.deepcopy(model).double()
        for name, module in leaves(model).items():
            module.register_forward_hook(lambda m, x, y, name=name: self._keep(name, m, y))
        for batch in batches:
            loss_of(model(batch.double() if batch.is_floating_point() else batch)).backward()

    def _keep(self, name: str, module: nn.Module, output: Tensor | tuple[Tensor, ...]) -> None:
        y = output if isinstance(output, Tensor) else output[0]
        channels_first = y.ndim == 4 and not isinstance(module, nn.Linear)
        values = y.detach().numpy().copy()
        self.outputs.setdefault(name, []).append(np.moveaxis(values, 1, -1) if channels_first else values)
        y.register_hook(lambda g: self.deltas.setdefault(name, []).append(g.numpy().copy()))

    def row(self, name: str) -> dict[str, float]:
        if name not in self.outputs:
            return dict.fromkeys(FULL_QUANTITIES, float("nan"))
        widths = {y.shape[-1] for y in self.outputs[name]}
        units = [np.concatenate([y.reshape(-1, w) for y in self.outputs[name] if y.shape[-1] == w]) for w in widths]
        every = np.concatenate([u.ravel() for u in units])
        delta = np.concatenate([d.ravel() for d in self.deltas[name]]) if name in self.deltas else np.array([np.nan])
        return {
            "activation_mean_abs": float(np.abs(every).mean()),
            "activation_std": float(np.sqrt(np.concatenate([u.var(0) for u in units]).mean())),
            "activation_zero_fraction": float((every == 0).mean()),
            "activation_gradient_mean_abs": float(np.abs(delta).mean()),
            "activation_dead_fraction": float(np.concatenate([(u == 0).all(0) for u in units]).mean()),
        }


def compare(found: Tensor, twin: Twin, names: list[str], rel: float = 1e-5) -> None:
    quantities = FULL_QUANTITIES if len(found) == len(FULL_QUANTITIES) else QUANTITIES
    for column, name in enumerate(names):
        exact = twin.row(name)
        for row, quantity in enumerate(quantities):
            wanted = pytest.approx(exact[quantity], rel=rel, abs=1e-9, nan_ok=True)
            assert float(found[row, column]) == wanted, (name, quantity)


def recorded(model: nn.Module, batches: list[Tensor], gradients: bool = True) -> tuple[Tensor, Activations]:
    watch = Activations(leaves(model), gradients, model)
    for batch in batches:
        loss_of(model(batch)).backward()
    return watch.take(CPU), watch


# -- what is computed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
def test_scales_equal_the_twin(net: tuple[nn.Module, Tensor], pieces: int, gradients: bool) -> None:
    """Pooled over the micro-batches, as if all samples had come at once."""
    model, x = net
    batches = list(x.chunk(pieces))
    twin = Twin(model, batches)
    found, watch = recorded(model, batches, gradients)
    assert found.shape == (5 if gradients else 3, len(watch.names)) and found.dtype is torch.float32
    compare(found, twin, watch.names)


def test_a_step_starts_afresh(net: tuple[nn.Module, Tensor]) -> None:
    model, x = net
    watch = Activations(leaves(model), True, model)
    for i, batch in enumerate((x, x[:5], x[5:])):
        # BatchNorm's running averages do not enter what a training forward puts out.
        twin = Twin(model, [batch])
        loss_of(model(batch)).backward()
        if i == 1:
            watch.clear()  # as for a step that is not recorded
            assert watch.take(CPU).isnan().all()
            continue
        compare(watch.take(CPU), twin, watch.names)
    assert watch.take(CPU).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_std_where_the_mean_is_large(dtype: torch.dtype) -> None:
    layer = nn.Linear(4, 6).to(dtype)
    x = torch.randn(12, 4, dtype=dtype) * 1e-3 + 5.0
    twin = Twin(layer, list(x.chunk(3)))
    found, watch = recorded(layer, list(x.chunk(3)))
    compare(found, twin, watch.names, rel=1e-3 if dtype is torch.float32 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_outputs_are_pooled_in_float32_or_better(dtype: torch.dtype) -> None:
    """Against the twin of what was put out, rounded as it was: the sums add nothing to that."""
    layer, x = nn.Linear(5, 6), torch.randn(4000, 5) + 3
    watch = Activations({"layer": layer}, gradients=False)
    with torch.autocast("cpu", dtype):
        y = layer(x).detach().double()
    found = watch.take(CPU)
    assert float(found[0, 0]) == pytest.approx(float(y.abs().mean()), rel=1e-6)
    assert float(found[1, 0]) == pytest.approx(float(y.var(0, correction=0).mean().sqrt()), rel=1e-6)


def state_of(output: Tensor, place: int | None, kernel: bool) -> Tensor:
    pool = UnitStatistics(nn.Identity())
    pool._place = place
    state = pool.new_state(output.shape[unit_axis(place, output.ndim)], output.dtype, CPU)
    for _ in range(2):
        if kernel:
            pool.add(output)
        else:
            unit_statistics.join(state, output, unit_axis(place, output.ndim))
    return state


@pytest.mark.parametrize(
    "shape", [(7, 5), (6,), (9, 1), (3, 4, 5), (5, 3, 2, 3), (2, 4, 7, 6), (2, 1, 5, 5), (4, 0 + 3)]
)
@pytest.mark.parametrize("place", [None, 1, -1])
@pytest.mark.parametrize("layout", ["plain", "channels-last", "transposed", "gaps", "expanded"])
def test_host_kernel_equals_torch(shape: tuple[int, ...], place: int | None, layout: str) -> None:
    y = torch.randn(shape).relu() + 2.0
    y[..., 0] = 0.0
    if layout == "channels-last" and y.ndim == 4:
        y = y.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        y = y.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "gaps":
        y = torch.stack((y, y + 9), -1)[..., 0]
    elif layout == "expanded":
        y = y[:1].expand(shape)
    torch.testing.assert_close(state_of(y, place, True), state_of(y, place, False), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite(bad: float) -> None:
    y = torch.randn(8, 3)
    y[2, 1] = bad
    for kernel in (True, False):
        mean_abs = state_of(y, None, kernel)[3]
        assert mean_abs.isfinite().tolist() == [True, False, True]
        assert state_of(y, None, kernel)[2].isfinite().tolist() == [True, False, True]


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (unit_statistics, module_rows):
        monkeypatch.setattr(module, "host_kernel", lambda name: None)
    model, x = conv(), torch.randn(12, 3, 6, 6)
    twin = Twin(model, [x])
    found, watch = recorded(model, [x])
    compare(found, twin, watch.names)


@pytest.mark.parametrize(
    ("module", "shape", "axis"),
    [
        (nn.Conv1d(2, 3, 1), (4, 3, 5), 1), (nn.Conv2d(2, 3, 1), (3, 5, 5), 0), (nn.MaxPool1d(2), (4, 3, 5), 1),
        (nn.ConvTranspose3d(2, 3, 1), (4, 3, 2, 2, 2), 1), (nn.AdaptiveAvgPool2d(1), (4, 3, 1, 1), 1),
        (nn.BatchNorm1d(3), (4, 3), 1), (nn.BatchNorm1d(3), (4, 3, 5), 1), (nn.GroupNorm(1, 3), (4, 3, 5), 1),
        (nn.LayerNorm(3), (4, 5, 5, 3), 3), (nn.Linear(2, 3), (4, 5, 5, 3), 3), (nn.Linear(2, 3), (4, 5, 3), 2),
        (nn.ReLU(), (4, 3, 5, 5), 1), (nn.ReLU(), (4, 5, 3), 2), (nn.ReLU(), (4, 3), 1), (nn.GELU(), (3,), 0),
        (nn.LSTM(2, 3), (4, 5, 3), 2), (nn.Embedding(2, 3), (4, 5, 3), 2),
        (type("Conv1D", (nn.Module,), {})(), (4, 5, 3), 2), (type("GraphConv", (nn.Module,), {})(), (4, 3), 1),
    ],
)  # fmt: skip
def test_unit_axis(module: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    assert unit_axis(place_of_units(module), len(shape)) == axis


# -- what is counted -----------------------------------------------------------------------------------


class Shared(nn.Module):
    """One linear layer called twice, and one ReLU over outputs of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last, self.relu = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.twice(self.relu(self.twice(x))))
        return self.relu(self.last(x))


class Checkpointed(nn.Module):
    """Middle layers recomputed in the backward; ``nested``: a checkpoint inside a checkpoint."""

    def __init__(self, reentrant: tuple[bool, ...]) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        run: Callable[[Tensor], Tensor] = self.middle
        for reentrant in self.reentrant:
            run = lambda x, run=run, reentrant=reentrant: checkpoint(run, x, use_reentrant=reentrant)  # noqa: E731
        # Once more outside of the checkpoint: runs that were counted twice would weigh more than this one.
        return self.last(self.middle(run(self.first(x))))


def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Hardtanh(inplace=True))


def frozen() -> nn.Module:
    """A frozen body in evaluation mode under a head that trains."""
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), nn.ReLU(), nn.Linear(6, 3))
    model[0].requires_grad_(False).eval()
    return model


def with_evaluation(model: nn.Module, x: Tensor) -> Tensor:
    """A training forward between an evaluation's, and one in training mode that no backward will follow."""
    model.eval()
    model(x * 7)
    model.train()
    with torch.no_grad():
        model(x * 5)
    return model(x)


REGIMES: dict[str, Callable[[], nn.Module]] = {
    "shared": Shared,
    "in-place": in_place,
    "frozen": frozen,
    "evaluation": mlp,
    "checkpoint": lambda: Checkpointed((False,)),
    "reentrant checkpoint": lambda: Checkpointed((True,)),
    "checkpoint in checkpoint": lambda: Checkpointed((False, False)),
    "reentrant in reentrant": lambda: Checkpointed((True, True)),
    "checkpoint in reentrant": lambda: Checkpointed((False, True)),
}


def run_regime(regime: str, *, root: bool = True) -> tuple[Tensor, Twin, list[str]]:
    model, x = REGIMES[regime](), torch.randn(10, 5, requires_grad=True)
    plain = copy.deepcopy(model)
    if isinstance(plain, Checkpointed):
        plain.reentrant = ()
    batches = [x[:6], x[6:]]
    twin = Twin(plain, batches)
    watch = Activations(leaves(model), True, model if root else None)
    for batch in batches:
        loss_of(with_evaluation(model, batch) if regime == "evaluation" else model(batch)).backward()
    return watch.take(CPU), twin, watch.names


@pytest.mark.parametrize("regime", list(REGIMES))
def test_regimes(regime: str) -> None:
    compare(*run_regime(regime))


def forget_earlier_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    add = UnitStatistics.add

    def alone(pool: UnitStatistics, output: Tensor) -> None:
        pool.states.clear()
        add(pool, output)

    monkeypatch.setattr(UnitStatistics, "add", alone)


def look_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    add, take, waiting = UnitStatistics.add, Activations.take, []

    def late(watch: Activations, device: torch.device) -> Tensor:
        for pool, output in waiting:
            add(pool, output)
        return take(watch, device)

    monkeypatch.setattr(UnitStatistics, "add", lambda pool, output: waiting.append((pool, output.detach())))
    monkeypatch.setattr(Activations, "take", late)


def count_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_grad_enabled", lambda: True)


def count_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "runs_for_the_first_time", lambda: True)


def count_no_second_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "runs_for_the_first_time", lambda: False)


@pytest.mark.parametrize(
    ("regime", "take_out"),
    [
        ("shared", forget_earlier_calls),
        ("in-place", look_at_the_end),
        ("evaluation", count_evaluations),
        ("checkpoint", count_every_run),
        ("reentrant checkpoint", count_no_second_run),
        ("checkpoint in checkpoint", count_every_run),
        ("reentrant in reentrant", count_no_second_run),
        ("checkpoint in reentrant", count_every_run),
        ("checkpoint in reentrant", count_no_second_run),
    ],
)
def test_regimes_need_their_handling(
    regime: str, take_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_out(monkeypatch)
    with pytest.raises(AssertionError, match="activation_"):
        compare(*run_regime(regime))


def test_frozen_modules_need_the_mode_of_the_root() -> None:
    with pytest.raises(AssertionError, match="activation_"):
        compare(*run_regime("frozen", root=False))


def test_channels_last(net: tuple[nn.Module, Tensor]) -> None:
    model, x = conv(), torch.randn(12, 3, 6, 6)
    twin = Twin(model, [x])
    model, last = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    assert model[0](last).is_contiguous(memory_format=torch.channels_last)
    found, watch = recorded(model, [last])
    compare(found, twin, watch.names)


def test_packed_sequences_leave_padding_out() -> None:
    lstm, lengths = nn.LSTM(5, 6, batch_first=True), [4, 2, 1]
    x = torch.randn(3, 4, 5)
    watch = Activations({"lstm": lstm}, gradients=False)
    lstm(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
    apart = torch.cat([lstm.double()(x[i : i + 1, :n].double())[0][0].detach() for i, n in enumerate(lengths)])
    lstm.float()
    assert float(watch.take(CPU)[0, 0]) == pytest.approx(float(apart.abs().mean()), rel=1e-5)


class Outputs(nn.Module):
    def __init__(self, put_out: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.put_out = put_out

    def forward(self, x: Tensor) -> object:
        return self.put_out(x)


@pytest.mark.parametrize(
    ("put_out", "seen"),
    [
        (lambda x: {"none": None, "hidden": [x]}, True),
        (lambda x: (x.argmax(), x), False),
        (lambda x: None, False),
        (lambda x: x.sum(), True),
        (lambda x: x[:0], False),
    ],
)
def test_outputs_of_all_kinds(put_out: Callable[[Tensor], object], seen: bool) -> None:
    module, x = Outputs(put_out), torch.randn(4, 3)
    watch = Activations({"m": module}, gradients=False)
    module(x)
    assert (not watch.unseen) == seen
    mean = float(watch.take(CPU)[0, 0])
    output = put_out(x)
    pooled = output if isinstance(output, Tensor) else x
    assert mean == pytest.approx(float(pooled.abs().mean()) if seen else float("nan"), nan_ok=True)


# -- when and where ------------------------------------------------------------------------------------


def test_only_while_sampling_and_gone_after_detaching() -> None:
    model, x = mlp(), torch.randn(3, 5)
    watch = Activations(leaves(model), True, model)
    watch.sampling = False
    loss_of(model(x)).backward()
    assert watch.take(CPU).isnan().all()
    watch.detach()
    assert not any(m._forward_hooks for m in model.modules())


def test_copies_and_pickles_carry_no_recording() -> None:
    model, x = mlp(), torch.randn(3, 5)
    watch = Activations(leaves(model), True, model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other(x)
    assert watch.take(CPU).isnan().all() and len(watch.unseen) == 5


def test_modules_that_never_ran_are_nan_and_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(5, 3)})
    watch = Activations(leaves(model), False, model)
    model["used"](torch.randn(2, 5))
    assert watch.take(CPU).isnan().any(0).tolist() == [False, True]
    assert list(watch.unseen) == ["unused"]
    assert watch.unseen["unused"].startswith("no forward of it in training mode, with gradients, was seen")


def test_units_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of modules whose type tells their units, and that are not too large."""
    monkeypatch.setattr(activations, "LARGEST_MODULE", 6)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].bias[1] = -1e3  # a dead unit behind the ReLU
    x = torch.randn(9, 5)
    twin = Twin(model[:5], [x])
    watch = Activations(leaves(model), True, model)
    assert watch.unit_names == [f"{name}:{i}" for name, units in (("0", 6), ("4", 3), ("5", 3)) for i in range(units)]
    loss_of(model[:5](x)).backward()
    scales = watch.unit_scales(CPU).numpy()
    exact = [np.abs(twin.outputs[name][0]).mean(0) for name in ("0", "4")]
    np.testing.assert_allclose(scales[:9], np.concatenate(exact), rtol=1e-5)
    assert np.isnan(scales[9:]).all()  # not called
    assert watch.take(CPU)[4, 1] == pytest.approx(1 / 6)
    assert watch.unit_scales(CPU).isnan().all()


def test_units_of_nothing() -> None:
    assert Activations({}, True).unit_scales(CPU).shape == (0,)
    assert Activations({}, True).take(CPU).shape == (5, 0)


# -- compiled models -----------------------------------------------------------------------------------


@pytest.fixture
def dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def steps(model: nn.Module, inner: nn.Module, watch: Activations, x: Tensor) -> None:
    """Sampled and unsampled steps in turn, each sampled one against the twin."""
    for step in range(5):
        watch.sampling = step % 2 == 0
        twin = Twin(inner, [x])
        loss_of(model(x)).backward()
        if watch.sampling:
            compare(watch.take(CPU), twin, watch.names)
        else:
            assert watch.take(CPU).isnan().all()


# Dynamo imports modules of torch that torch itself has deprecated.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.thorough
@quiet
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize(("backend", "compiled_first"), [("aot_eager", False), ("aot_eager", True), ("eager", True)])
def test_compiled_models(name: str, backend: str, compiled_first: bool) -> None:
    """Hooks are compiled in, `fullgraph` tells that they do not break the graph, and all numbers stay right."""
    make_model, make_input = NETS[name]
    model, x = make_model(), make_input()
    model = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True) if compiled_first else None
    watch = Activations(leaves(model), False, model)
    if compiled is None:
        compiled = torch.compile(model, backend=backend, fullgraph=True)
    steps(compiled, model, watch, x)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    steps(compiled, model, watch, x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before, "no step compiles anew"


@quiet
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("regime", ["shared", "in-place", "checkpoint"])
def test_compiled_regimes(regime: str) -> None:
    """aot_eager, for the backend "eager" runs a checkpoint's changes of tensors twice, and torch then refuses."""
    model, x = REGIMES[regime](), torch.randn(10, 5)
    plain = copy.deepcopy(model)
    if isinstance(plain, Checkpointed):
        plain.reentrant = ()
    watch = Activations(leaves(model), False, model)
    steps(torch.compile(model, backend="aot_eager", fullgraph=True), plain, watch, x)


@quiet
@pytest.mark.usefixtures("dynamo")
def test_models_compiled_and_called_before_are_named() -> None:
    model, x = mlp(), torch.randn(4, 5)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    watch = Activations(leaves(model), False, model)
    loss_of(compiled(x)).backward()
    assert watch.take(CPU).isnan().all()
    assert set(watch.unseen) == set(watch.names)
    assert all("compiled and called before the recording began" in why for why in watch.unseen.values())


def test_nothing_is_said_of_compiled_code_where_none_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention uses its projection without calling it: not seen, but nobody compiled it."""
    import torch._dynamo.utils  # loaded by many who compile nothing

    monkeypatch.setitem(torch._dynamo.utils.counters, "stats", Counter())
    attention = nn.MultiheadAttention(8, 2)
    watch = Activations({"out_proj": attention.out_proj}, False, attention)
    x = torch.randn(3, 2, 8)
    attention(x, x, x)[0].sum().backward()
    assert watch.unseen == {"out_proj": "no forward of it in training mode, with gradients, was seen"}


@quiet
@pytest.mark.usefixtures("dynamo")
def test_compiled_code_has_no_deltas_and_says_so() -> None:
    model, x = mlp(), torch.randn(4, 5)
    watch = Activations(leaves(model), True, model)
    loss_of(torch.compile(model, backend="aot_eager", fullgraph=True)(x)).backward()
    found = watch.take(CPU)
    assert found[3].isnan().all() and found[[0, 1, 2, 4]].isfinite().all()
    assert list(watch.unseen) == ["activation_gradient_mean_abs"]


# -- cost ----------------------------------------------------------------------------------------------


def test_nothing_asks_the_device(net: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """No number leaves for the host, on the way that all devices but the host take."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    for module in (unit_statistics, module_rows):
        monkeypatch.setattr(module, "host_kernel", lambda name: None)
    model, x = net
    watch = Activations(leaves(model), True, model)
    with Asked():
        loss_of(model(x)).backward()
        watch.unit_scales(CPU)
        watch.take(CPU)


class OneNumber(nn.Module):
    """A loss inside the model: what it puts out is one number."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_number_is_a_unit_of_one_sample(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(5, 4), OneNumber()).to(dtype)
    watched = Activations({"loss": model[1]}, gradients=True)
    outputs = []
    for size in (1.0, 3.0, 2.0):  # micro-batches
        out = model(size * torch.ones(2, 5, dtype=dtype))
        (out / 4).backward()
        outputs.append(out.item())
    row = dict(zip(FULL_QUANTITIES, watched.take(CPU)[:, 0].tolist(), strict=True))
    wanted = np.array(outputs, dtype=np.float64)
    assert row["activation_mean_abs"] == pytest.approx(wanted.mean(), rel=1e-6)
    assert row["activation_std"] == pytest.approx(wanted.std(), rel=1e-6)
    assert row["activation_zero_fraction"] == row["activation_dead_fraction"] == 0
    assert row["activation_gradient_mean_abs"] == pytest.approx(0.25)
    assert not watched.unseen


# -- between sampled steps -----------------------------------------------------------------------------


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.utils

    monkeypatch.setitem(torch._dynamo.utils.counters, "stats", Counter())


def doubled(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
    return 2 * output


def ours(model: nn.Module) -> list[int]:
    """How many hooks of ours the leaves have."""
    every = [list(module._forward_hooks.values()) for module in model.modules() if not list(module.children())]
    return [sum(isinstance(hook, Hook) for hook in hooks) for hooks in every]


Meddle = Callable[[nn.Module, int], Any]


def recorded_scales(path: Path, meddle: Meddle | None = None) -> tuple[np.ndarray, list[list[int]], dict[str, Any]]:
    """Sixteen steps, activations at every fourth; ``meddle`` is given the model before each step, and may return
    another way to call it.
    """
    torch.manual_seed(0)
    model = nn.Sequential(mlp(), nn.Linear(3, 3))
    called: Callable[[Tensor], Tensor] = model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(6, 5), torch.randint(0, 3, (6,))
    seen = []
    with gradscope.record(model, optimizer, path, every={"activations": 4}, on_failure="ignore") as run:
        for step in range(16):
            called = (meddle(model, step) if meddle else None) or called
            loss = nn.functional.cross_entropy(called(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            seen.append(ours(model[0]))
    assert ours(model) == [0] * 6
    with gradscope.open_run(path) as dataset:
        return dataset["activation_mean_abs"].values, seen, json.loads(dataset.attrs["capture"])


@pytest.mark.usefixtures("nothing_compiled")
def test_modules_have_hooks_in_sampled_steps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, seen, capture = recorded_scales(tmp_path / "r.h5")
    on = [row == [1] * 5 for row in seen]  # after a step, for the forward of the next one
    assert on == [(step + 1) % 4 == 0 for step in range(16)] and all(set(row) <= {0, 1} for row in seen)
    assert not {"compiled_late", "modules_silent"} & set(capture)
    monkeypatch.setattr(ModuleHooks, "pause", lambda self: None)
    always, _, _ = recorded_scales(tmp_path / "always.h5")
    assert np.isfinite(found).all(1).sum() == 4
    np.testing.assert_array_equal(found, always)


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("other_at", [0, 2])
def test_hooks_of_others_keep_their_place(tmp_path: Path, other_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put on while ours are off, or while they are on: after ours, which see the output as before."""

    def meddle(model: nn.Module, step: int) -> None:
        if step == other_at:
            model[0][2].register_forward_hook(doubled)

    found, seen, _ = recorded_scales(tmp_path / "r.h5", meddle)
    assert seen[1] == [1 if other_at == 0 and place == 2 else 0 for place in range(5)]
    monkeypatch.setattr(ModuleHooks, "pause", lambda self: None)
    always, _, _ = recorded_scales(tmp_path / "always.h5", meddle)
    np.testing.assert_array_equal(found, always)


def copy_hooks(module: nn.Module) -> None:
    module._forward_hooks = OrderedDict(module._forward_hooks)


def replace_hooks(module: nn.Module) -> None:
    module._forward_hooks = OrderedDict()


def restore(module: nn.Module) -> None:
    state = pickle.loads(pickle.dumps(module)).__dict__
    module.__setstate__({**state, "_parameters": module._parameters})


def clear(module: nn.Module) -> None:
    module._forward_hooks.clear()


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("at", [4, 6], ids=["while on", "while off"])
@pytest.mark.parametrize("act", [copy_hooks, replace_hooks, restore, clear])
def test_scripts_that_handle_hooks_themselves(tmp_path: Path, act: Callable[[nn.Module], None], at: int) -> None:
    """At most the sampled step in which hooks were thrown away has no activations; the others' are as without that."""

    def meddle(model: nn.Module, step: int) -> None:
        for module in (*model[0], model[1]) if step == at else ():
            act(module)

    right, _, _ = recorded_scales(tmp_path / "plain.h5")
    found, _, _ = recorded_scales(tmp_path / "r.h5", meddle)
    if at == 4 and act is not copy_hooks:
        right[4] = np.nan
    np.testing.assert_array_equal(found, right)


@pytest.mark.usefixtures("nothing_compiled")
def test_modules_that_fall_silent_are_named(tmp_path: Path) -> None:
    def meddle(model: nn.Module, step: int) -> None:
        if step == 6:
            model[0][3] = nn.Sigmoid()

    found, _, capture = recorded_scales(tmp_path / "r.h5", meddle)
    assert np.isnan(found[8::4, 3]).all() and np.isfinite(found[4, 3])
    assert "modules_silent" not in capture  # two sampled steps

    def earlier(model: nn.Module, step: int) -> None:
        if step == 2:
            model[0][3] = nn.Sigmoid()

    _, _, capture = recorded_scales(tmp_path / "s.h5", earlier)
    assert list(capture["modules_silent"]) == ["0.3"] and capture["modules_silent"]["0.3"].endswith("since step 4")


def compile_whole(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def compile_in_place(model: nn.Module) -> None:
    model.compile(backend="eager")


def compile_a_part(model: nn.Module) -> None:
    model[0][2].compile(backend="eager")


def compiled_from_its_call() -> bool:
    """Return whether dynamo compiles the call of a module compiled in place; torch 2.6 compiles what it calls only."""
    began, module = [], nn.Sequential(nn.Linear(2, 2))
    callbacks = torch._dynamo.callback.callback_handler.start_callbacks
    callbacks.append(lambda *_: began.append(True))
    try:
        module.compile(backend="eager")
        module(torch.ones(1, 2))
    finally:
        callbacks.pop()
        torch._dynamo.reset()
    return bool(began)


@quiet
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's, of a part's input
@pytest.mark.usefixtures("dynamo", "nothing_compiled")
@pytest.mark.parametrize("how", [compile_whole, compile_in_place, compile_a_part])
def test_what_is_compiled_between_sampled_steps_has_its_hooks(tmp_path: Path, how: Callable[[nn.Module], Any]) -> None:
    right, _, _ = recorded_scales(tmp_path / "plain.h5")
    found, seen, capture = recorded_scales(tmp_path / "r.h5", lambda model, step: how(model) if step == 6 else None)
    assert not {"compiled_late", "modules_silent"} & set(capture)
    if how is compile_whole or compiled_from_its_call():
        assert seen[5] == [0] * 5 and seen[6] == [1] * 5 == seen[-1]
        np.testing.assert_allclose(found, right, rtol=1e-6)
        return
    missed = np.isfinite(right) & ~np.isfinite(found)
    assert missed.sum() <= 1  # a sample of one module, in which dynamo first sees its hook
    np.testing.assert_allclose(found[~missed], right[~missed], rtol=1e-6)


@quiet
@pytest.mark.usefixtures("dynamo", "nothing_compiled")
def test_what_is_compiled_without_hooks_is_named(tmp_path: Path) -> None:
    """Where dynamo has forgotten whom to call before it compiles."""

    def meddle(model: nn.Module, step: int) -> Any:
        if step != 6:
            return None
        torch._dynamo.reset()
        return torch.compile(model, backend="eager")

    found, seen, capture = recorded_scales(tmp_path / "r.h5", meddle)
    assert seen[5] == [0] * 5 and seen[6] == [1] * 5 == seen[-1]
    assert capture["compiled_late"].endswith("since step 6")
    assert np.isfinite(found[4]).all() and np.isnan(found[8:]).all()
