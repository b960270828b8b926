"""Steps replayed by CUDA graphs: every number as without one. On a card if there is one, else by `HostGraph`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.recorder.kernels import table
from gradscope.recorder.ring import Ring
from gradscope.recorder.row_buffer import Layout, RowBuffer
from gradscope.recorder.scalars import Scalars
from gradscope.recorder.update_meter import UpdateMeter
from gradscope.recording import Recording
from tests.helpers.host_graph import HostGraph
from tests.helpers.loops import batches, convnet, mlp

STEPS, WARM = 14, 3
DEVICES = ["host", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where there is no card, what looks to a recorder like one: foreach operations only, and a graph of the host."""
    if request.param == "cuda":
        return torch.device("cuda")
    lay_out, places = RowBuffer.lay_out, Scalars.__init__

    def as_on_a_card(self: RowBuffer, layout: Layout) -> None:
        lay_out(self, layout)
        self.on_accelerator = self.on_cuda = True

    monkeypatch.setattr(RowBuffer, "lay_out", as_on_a_card)
    monkeypatch.setattr(Scalars, "__init__", lambda self, buffer, averaged: places(self, buffer, True))
    monkeypatch.setattr(table, "_FUSED", {})
    for module in ("unit_statistics", "module_rows"):
        monkeypatch.setattr(f"gradscope.recorder.kernels.{module}.host_kernel", lambda name: None)
    monkeypatch.setattr("gradscope.recorder.kernels.magnitude_bins._kernel", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", HostGraph)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: HostGraph.capturing)
    return torch.device("cpu")


@contextmanager
def capturing(graph: object) -> Iterator[None]:
    if isinstance(graph, HostGraph):
        graph.capture_begin()
        yield
        graph.capture_end()
    else:
        with torch.cuda.graph(graph):
            yield


def captured(part: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of what ``part()`` does."""
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        part()
    return graph


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Warm-up steps before a capture run on a stream of their own."""
    if device.type == "cpu":
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


class Loop:
    """Training steps on fixed memory. ``clip``: between the backward pass and the step."""

    def __init__(self, device: torch.device, build: Callable[[], nn.Module], split: bool) -> None:
        torch.manual_seed(1)
        self.model = build().to(device)
        parts = [list(p) for p in ([*self.model.parameters()][:2], [*self.model.parameters()][2:])] if split else None
        options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02, "foreach": True}
        groups = parts or [list(self.model.parameters())]
        self.optimizers = [torch.optim.SGD(part, **options) for part in groups]
        self.data = [(x.to(device), y.to(device)) for x, y in batches(STEPS)]
        self.x, self.y = (t.clone() for t in self.data[0])
        self.loss = torch.zeros((), device=device)

    def load(self, step: int) -> None:
        self.x.copy_(self.data[step][0])
        self.y.copy_(self.data[step][1])

    def backward(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.loss = loss.detach()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def whole(self) -> None:
        self.backward()
        self.step()

    def train(self, steps: Iterable[int], run: Recording) -> None:
        for step in steps:
            self.load(step)
            self.whole()
            run.log(loss=self.loss, twice=2 * self.loss)

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)


def run_of(loop: Loop, path: Path, **options: object) -> Recording:
    made = loop.optimizers[0] if len(loop.optimizers) == 1 else loop.optimizers
    return gradscope.record(loop.model, made, path, on_failure="ignore", **options)  # type: ignore[arg-type]


def eager(path: Path, device: torch.device, build: Callable[[], nn.Module], clip: bool, split: bool, **options: object):
    loop = Loop(device, build, split)
    with run_of(loop, path, **options) as run:
        for step in range(STEPS):
            loop.load(step)
            loop.backward()
            if clip:
                loop.clip()
            loop.step()
            run.log(loss=loop.loss, twice=2 * loop.loss)
    return values(path)


def values(path: Path) -> dict[str, np.ndarray]:
    with gradscope.open_run(path) as dataset:
        return {name: np.asarray(v.values) for name, v in dataset.data_vars.items() if v.dtype.kind in "fi"} | {
            "step": dataset["step"].values
        }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"time", "epoch_time"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("build", [mlp, convnet])
@pytest.mark.parametrize("split", [False, True], ids=["one optimizer", "two"])
@pytest.mark.parametrize("preset", ["cheap", "standard", "full"])
def test_a_whole_step(tmp_path: Path, device: torch.device, build: Callable, split: bool, preset: str) -> None:
    options = {"preset": preset, "every": {"activations": 1} if preset != "cheap" else 1}
    expected = eager(tmp_path / "eager.h5", device, build, clip=False, split=split, **options)
    loop = Loop(device, build, split)
    with run_of(loop, tmp_path / "graph.h5", **options) as run:
        with beside(device):
            loop.train(range(WARM), run)
        graph = captured(lambda: (loop.whole(), run.log(twice=2 * loop.loss)))
        for step in range(WARM, STEPS):
            loop.load(step)
            graph.replay()
            run.log(loss=loop.loss)
    same(values(tmp_path / "graph.h5"), expected)
    with gradscope.open_run(tmp_path / "graph.h5") as dataset:
        assert "learning rates of their capture" in json.loads(dataset.attrs["capture"])["cuda_graphs"]


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_a_backward_pass_with_an_eager_step(tmp_path: Path, device: torch.device, preset: str) -> None:
    """As most code does that clips: the coefficient is seen, for the pass is measured when it is replayed."""
    expected = eager(tmp_path / "eager.h5", device, mlp, clip=True, split=False, preset=preset)
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "graph.h5", preset=preset) as run:
        graph = torch.cuda.CUDAGraph()
        for step in range(STEPS):
            loop.load(step)
            if step < WARM:
                loop.backward()
            else:
                if step == WARM:
                    with capturing(graph):
                        loop.backward()
                graph.replay()
            loop.clip()
            loop.step()
            run.log(loss=loop.loss, twice=2 * loop.loss)
        assert run._recorder.capture()["measured_at_step"] == 0
    found = values(tmp_path / "graph.h5")
    assert (found["clip_coefficient"] < 1).all()
    same(found, expected)


def graphed(loop: Loop, path: Path, **options: object) -> dict[str, np.ndarray]:
    """The plainest loop: some steps, then replays."""
    with run_of(loop, path, **options) as run:
        graph = torch.cuda.CUDAGraph()
        for step in range(STEPS):
            loop.load(step)
            if step < WARM:
                loop.whole()
            else:
                if step == WARM:
                    with capturing(graph):
                        loop.whole()
                graph.replay()
            run.log(loss=loop.loss, twice=2 * loop.loss)
    return values(path)


@pytest.mark.parametrize("taken_out", ["the fixed row", "no exchange of names"])
def test_what_the_handling_is_for(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch, taken_out: str
) -> None:
    """The comparison with eager steps does fail where a part of the handling is taken out."""
    expected = eager(tmp_path / "eager.h5", device, mlp, clip=False, split=False, preset="full")
    if taken_out == "the fixed row":
        monkeypatch.setattr(Ring, "keep", lambda self, row, names: None)
    else:  # names that are exchanged at the capture only
        before = UpdateMeter.before_step

        def exchanged(self: UpdateMeter, *arguments: object) -> None:
            self._current, self._previous = self._previous, self._current
            before(self, *arguments)

        monkeypatch.setattr(UpdateMeter, "before_step", exchanged)
    with pytest.raises(AssertionError):
        same(graphed(Loop(device, mlp, split=False), tmp_path / "graph.h5", preset="full"), expected)


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_steps_that_are_not_recorded(tmp_path: Path, device: torch.device, preset: str) -> None:
    options = {"preset": preset, "every": {"rows": 2, "activations": 4}}
    expected = eager(tmp_path / "eager.h5", device, mlp, clip=False, split=False, **options)
    same(graphed(Loop(device, mlp, split=False), tmp_path / "graph.h5", **options), expected)


class Descent(torch.optim.Optimizer):
    """Its learning rate is a tensor, as capturable optimizers have it."""

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad * group["lr"])


def test_a_learning_rate_kept_in_a_tensor(tmp_path: Path, device: torch.device) -> None:
    loop = Loop(device, mlp, split=False)
    rate = torch.tensor(0.5, device=device)
    loop.optimizers = [Descent(loop.model.parameters(), {"lr": rate, "weight_decay": 0.0})]
    with run_of(loop, tmp_path / "r.h5") as run:
        loop.whole()
        graph = captured(loop.whole)
        for step in range(1, 5):
            rate.copy_(0.5**step)
            graph.replay()
            run.log(loss=loop.loss)
    np.testing.assert_allclose(values(tmp_path / "r.h5")["learning_rate"][:, 0], [0.5, 0.5, 0.25, 0.125, 0.0625])


def test_no_step_before_the_capture(tmp_path: Path, device: torch.device) -> None:
    """Such a graph is not recorded, and does no harm to what is."""
    loop = Loop(device, mlp, split=False)
    loop.whole()
    with run_of(loop, tmp_path / "r.h5") as run:
        graph = torch.cuda.CUDAGraph()
        with pytest.warns(UserWarning, match="train a step or more before a capture") as caught, capturing(graph):
            loop.whole()
        assert len(caught) == 1
        for step in range(4):
            loop.load(step)
            graph.replay()
        loop.train(range(3), run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["step"].values.tolist() == [0, 1, 2]
        assert np.isfinite(dataset["loss"].values).all()
        assert "not recorded" in json.loads(dataset.attrs["capture"])["cuda_graphs"]


def test_a_graph_outlives_the_recording(tmp_path: Path, device: torch.device) -> None:
    """What it writes stays in memory, and torch's methods are its own again."""
    own = torch.cuda.CUDAGraph.replay
    loop = Loop(device, mlp, split=False)
    graph = torch.cuda.CUDAGraph()
    with run_of(loop, tmp_path / "r.h5") as run:
        assert torch.cuda.CUDAGraph.replay is not own
        loop.train(range(WARM), run)
        with capturing(graph):
            loop.whole()
        graph.replay()
    assert torch.cuda.CUDAGraph.replay is own
    before = [p.detach().clone() for p in loop.model.parameters()]
    graph.replay()
    assert any(not torch.equal(p, q) for p, q in zip(loop.model.parameters(), before, strict=True))
    assert run._recorder.buffer.rings in graph._gradscope[id(run._recorder.listeners.graphs)].holds
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["step"].values.tolist() == [0, 1, 2, 3]


def test_the_thread_leaves_the_device_alone_during_a_capture(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bool] = []
    hand_out = RowBuffer._hand_out
    monkeypatch.setattr(RowBuffer, "_hand_out", lambda self, stop: (read.append(self.paused), hand_out(self, stop)))
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5") as run:
        loop.train(range(WARM), run)
        with capturing(torch.cuda.CUDAGraph()):
            loop.backward()
            run._recorder.buffer.wait()
            loop.step()
    assert read and not any(read)


def test_two_graphs_a_step(tmp_path: Path, device: torch.device) -> None:
    """The pass in one, the step in the other: what is logged after both belongs to that step."""
    expected = eager(tmp_path / "eager.h5", device, mlp, clip=False, split=False)
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "graph.h5") as run:
        parts = [torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()]
        for step in range(STEPS):
            loop.load(step)
            if step == WARM:
                for graph, part in zip(parts, (loop.backward, loop.step), strict=True):
                    with capturing(graph):
                        part()
            if step < WARM:
                loop.whole()
            else:
                for graph in parts:
                    graph.replay()
            run.log(loss=loop.loss, twice=2 * loop.loss)
    found = values(tmp_path / "graph.h5")
    clip = found.pop("clip_coefficient"), expected.pop("clip_coefficient")
    assert np.isnan(clip[0][WARM:]).all(), "a captured step measures anew, and does not know of the pass before it"
    same(found, expected)


def test_a_captured_forward_pass_only(tmp_path: Path, device: torch.device) -> None:
    """It adds to the activations at every replay, sampled or not; what it writes outlives the recording."""
    options = {"preset": "standard", "every": {"activations": 4}}
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5", **options) as run:
        loop.train(range(WARM), run)
        graph = torch.cuda.CUDAGraph()
        with capturing(graph):
            loop.model(loop.x)
        seen = []
        for step in range(WARM, STEPS):
            loop.load(step)
            with torch.no_grad():
                seen.append(loop.model[0](loop.x).abs().mean().item())
            graph.replay()  # in the place of a forward pass in training mode
            for p in loop.model.parameters():
                p.grad = torch.zeros_like(p)
            loop.step()
        assert id(run._recorder.listeners.graphs) in graph._gradscope
    scale = values(tmp_path / "r.h5")["activation_mean_abs"][:, 0]
    np.testing.assert_allclose(scale[[4, 8, 12]], np.array(seen)[[1, 5, 9]], rtol=1e-5)


def test_several_steps_in_a_graph_are_refused(tmp_path: Path, device: torch.device) -> None:
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5"):
        loop.whole()
        graph = torch.cuda.CUDAGraph()
        with pytest.warns(UserWarning, match="holds several steps"), capturing(graph):
            for _ in range(2):
                loop.whole()
        graph.replay()
        loop.whole()
    assert values(tmp_path / "r.h5")["step"].tolist() == [0, 1]


def test_a_capture_that_cannot_begin(tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is lost to it."""
    if device.type == "cpu":
        monkeypatch.setattr(HostGraph, "capture_begin", lambda self: (_ for _ in ()).throw(RuntimeError("default")))
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5") as run:
        for step in range(6):
            loop.train([step], run)
            with pytest.raises(RuntimeError):
                torch.cuda.CUDAGraph().capture_begin()  # on a card: on the default stream
    found = values(tmp_path / "r.h5")
    assert found["step"].tolist() == list(range(6))
    assert np.isfinite(found["loss"]).all()


def test_a_replay_taken_from_a_graph_while_it_was_recorded(tmp_path: Path, device: torch.device) -> None:
    """Loops keep ``graph.replay`` in a variable."""
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5"):
        loop.whole()
        graph = captured(loop.whole)
        replay = graph.replay
        replay()
    replay()
    assert values(tmp_path / "r.h5")["step"].tolist() == [0, 1]


def test_a_penalty_that_comes_just_before_a_replay(tmp_path: Path, device: torch.device) -> None:
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5"):
        loop.whole()
        graph = captured(loop.whole)
        gradscope.regularize(loop.optimizers[0], gradscope.L1(), gradscope.Constant(1e-3), model=loop.model)
        with pytest.warns(UserWarning, match="before the penalties changed"):
            graph.replay()
        loop.whole()
    assert values(tmp_path / "r.h5")["step"].tolist() == [0, 1]


def test_other_penalties_after_a_capture(tmp_path: Path, device: torch.device) -> None:
    """A graph captured before repeats the old ones: its steps are no more recorded, which is said once."""
    loop = Loop(device, mlp, split=False)
    with run_of(loop, tmp_path / "r.h5") as run:
        loop.train(range(WARM), run)
        graph = captured(loop.whole)
        graph.replay()
        with pytest.warns(UserWarning, match="before the penalties changed"):
            gradscope.regularize(loop.optimizers[0], gradscope.L1(), gradscope.Constant(1e-3), model=loop.model)
            loop.whole()
        graph.replay()
        loop.whole()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["step"].values.tolist() == list(range(6))
        assert "not recorded" in json.loads(dataset.attrs["capture"])["cuda_graphs"]
