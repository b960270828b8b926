"""The recorder beside the numbers: threads, memory, cadence, selection, updates, ranks."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradscope
from gradscope import L1, Constant, DenseStart, Every, InputError, Windows, regularize
from gradscope.recorder.backward_passes import BackwardPasses
from gradscope.recorder.distributed import Ranks, merge, of_all
from gradscope.recorder.fields import Field
from gradscope.recorder.flusher import Flusher
from gradscope.recorder.ring import Ring
from gradscope.recorder.row_buffer import RowBuffer
from tests.helpers import exact
from tests.helpers.loops import batches, end_rank, mlp, recorded, train


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.02)


# -- nothing waits for the device -------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what makes a training thread wait on an accelerator: a number read, a copy to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"):
            self.found.append(name)
        if name in ("aten::_to_copy", "aten::copy_") and (kwargs or {}).get("device") not in (None, args[0].device):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("preset", ["cheap", "standard", "full"])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_nothing_between_two_steps_reads_a_number(tmp_path: Path, preset: str, kind: str) -> None:
    model = mlp()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, weight_decay=0.02)

    def waits(run: gradscope.Recording | None, bad: bool = False) -> list[str]:
        with Waits() as seen:
            for x, y in batches(12):
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if run is not None:
                    run.log(loss=loss.item() if bad else loss)
        return seen.found

    bare = waits(None)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", preset=preset, on_failure="ignore") as run:
        assert waits(run) == bare
        assert len(waits(run, bad=True)) >= len(bare) + 12  # the test would see it


# -- the thread -------------------------------------------------------------------------------------


def test_detached_and_attached_again_leaves_nothing(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    threads = threading.active_count()
    alive = []
    for number in range(3):
        run = gradscope.record(model, optimizer, tmp_path / f"{number}.h5", preset="full", on_failure="ignore")
        train(model, optimizer, 5, run)
        run.close()
        alive.append(weakref.ref(run))
        alive.append(weakref.ref(run._recorder))
        del run
    gc.collect()
    assert threading.active_count() == threads
    assert [ref() for ref in alive] == [None] * 6
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert torch.amp.GradScaler.step.__module__ == "torch.amp.grad_scaler"


def test_a_flusher_answers_takes_the_rest_and_ends() -> None:
    taken = []
    flusher = Flusher(lambda: taken.append(threading.current_thread().name))
    flusher.wait()
    assert taken and set(taken) == {"gradscope-flusher"}
    flusher.stop()
    assert not flusher.alive
    flusher.wait()  # nobody there: returns


def test_a_forked_child_records_nothing(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        train(model, optimizer, 5, run)
        child = os.fork()
        if not child:
            try:
                train(model, optimizer, 5)
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        train(model, optimizer, 5, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["step"].values.tolist() == list(range(10))


def test_memory_is_bounded_and_a_slow_sink_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.recorder.ring.ROWS", 48)
    whole = RowBuffer._hand_out
    monkeypatch.setattr(RowBuffer, "_hand_out", lambda self, stop: (time.sleep(0.05), whole(self, stop)))
    model = mlp()
    with gradscope.record(model, sgd(model), tmp_path / "s.h5", on_failure="ignore") as run:
        train(model, run._recorder._optimizers[0], 300, run)
        assert max(ring.rows for ring in run._recorder.buffer.rings.values()) == 48
        assert len(run._recorder.buffer.hosts) <= 48
        stated = run._notes.capture["buffer_bytes"]
        assert stated == sum(ring._flat.numel() * 4 for ring in run._recorder.buffer.rings.values())
    with gradscope.open_run(tmp_path / "s.h5") as dataset:
        assert dataset["step"].values.tolist() == list(range(300))
        assert np.isfinite(dataset["loss"].values).all()


def test_a_ring_reads_across_its_end() -> None:
    ring = Ring(torch.device("cpu"), {"a": Field((2,), "mean"), "b": Field((1, 3), "mean")})
    for row in range(ring.rows + 5):
        ring.view("a", row).fill_(row)
        ring.view("b", row).fill_(-row)
    found = ring.read(ring.rows - 3, ring.rows + 5)
    expected = np.arange(ring.rows - 3, ring.rows + 5)
    np.testing.assert_array_equal(found["a"], np.stack([expected] * 2, 1))
    np.testing.assert_array_equal(found["b"][:, 0], -np.stack([expected] * 3, 1))


def test_parts_of_a_tensor_become_a_whole() -> None:
    """A NaN in one shard is a NaN of the tensor, as it is without shards; a copy counts once."""
    parts = np.array([[3.0, 1.0, np.nan], [4.0, np.nan, 2.0]])  # [ranks, parameters]
    every, first = np.ones((2, 1), dtype=bool), np.array([[True, True, False], [True, False, False]])
    for words, wanted in (("norm", 5.0), ("sum", 7.0), ("max", 4.0)):
        found = merge(words, parts, every)
        assert found[0] == wanted and np.isnan(found[1:]).all()
        found = merge(words, parts, first)
        assert found[0] == wanted and found[1] == 1 and np.isnan(found[2])
    np.testing.assert_array_equal(merge("mean", parts, every), [3.5, 1, 2])  # of the ranks that know
    rows = np.arange(12.0).reshape(2, 3, 2, 1)  # [ranks, rows, quantities, parameters]
    found = of_all(("sum", "max"), rows, np.ones((2, 1, 1, 1), dtype=bool))
    np.testing.assert_array_equal(found[:, 0], rows[0, :, 0] + rows[1, :, 0])
    np.testing.assert_array_equal(found[:, 1], rows[1, :, 1])


def test_a_field_says_how_ranks_become_one() -> None:
    with pytest.raises(TypeError):
        Field((3,))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="2 words for a first axis of 3"):
        Field((3, 4), ("sum", "max"))


def test_many_logged_names(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(6)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            run.log(**{f"name{i}": torch.tensor(float(step * i)) for i in range(5 * step + 1)})
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        for i in range(26):
            first = -(-i // 5)
            expected = [np.nan if step < first else step * i for step in range(6)]
            np.testing.assert_array_equal(dataset[f"name{i}"].values, expected)


# -- how often, and of what -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (7, [0, 7, 14]),
        (Every(7), [0, 7, 14]),
        (DenseStart(4, 5), [0, 1, 2, 3, 5, 10, 15]),
        (Windows((2, 4), (10, 12)), [2, 3, 10, 11]),
        ({"rows": 5, "activations": 10}, [0, 5, 10, 15]),
    ],
)
def test_cadence(tmp_path: Path, every: object, steps: list[int]) -> None:
    torch.manual_seed(0)
    model = mlp()
    seen = []
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", every=every, on_failure="ignore") as run:  # type: ignore[arg-type]
        for batch in exact.micro_batches(18):
            seen.append(exact.row(model, exact.gradients(model, batch), 0.02))
            train_one(model, optimizer, batch[0])
            run.log(loss=torch.tensor(1.0))
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["step"].values.tolist() == steps
        exact.equal(dataset, [seen[i] for i in steps])
        sampled = ~np.isnan(dataset["activation_mean_abs"].values[:, 0])
        assert dataset["step"].values[sampled].tolist() == [s for s in steps if s % 10 == 0]
        assert np.isfinite(dataset["loss"].values).all()


def test_full_samples_many_tensors_after_the_first_hundred_steps(tmp_path: Path) -> None:
    """What it samples is, number by number, what it records of every step when asked to."""
    kinds = ("update_mean_abs", "update_proportion", "activation_mean_abs", "activation_gradient_mean_abs")
    records = []
    for every in ({}, {"activations": 1, "updates": 1}):
        torch.manual_seed(0)
        hidden = [layer for _ in range(24) for layer in (nn.Linear(5, 5), nn.Tanh())]
        model = nn.Sequential(nn.Linear(6, 5), *hidden, nn.Linear(5, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.02)  # through the moments
        path = tmp_path / f"{len(every)}.h5"
        with gradscope.record(model, optimizer, path, preset="full", every=every, on_failure="ignore"):
            for batch in batches(118):
                train_one(model, optimizer, batch)
        with gradscope.open_run(path) as dataset:
            records.append({name: dataset[name].values for name in kinds})
    sampled, whole = records
    rows = [*range(100), 104, 112]
    assert len(model.state_dict()) > 48
    for name in kinds:
        assert np.flatnonzero(~np.isnan(sampled[name]).all(1)).tolist() == rows
        np.testing.assert_array_equal(sampled[name][rows], whole[name][rows])
        assert not np.isnan(whole[name]).all(1).any()


def train_one(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    exact.loss_of(model, batch).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("every", "message"),
    [
        (0, "every is 0; expected a whole number"),
        ({"weights": 1}, "names no kind of quantity; expected one of rows"),
        ({"rows": "often"}, "expected a whole number"),
    ],
)
def test_unusable_cadences(tmp_path: Path, every: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradscope.record(model := mlp(), sgd(model), tmp_path / "r.h5", every=every)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected pairs"):
        Windows((3, 2))
    assert not (tmp_path / "r.h5").exists()


def test_selection_by_type_expression_and_predicate(tmp_path: Path) -> None:
    for number, (select, names) in enumerate(
        {
            nn.GRU: ["cells.weight_ih_l0", "cells.weight_hh_l0", "cells.bias_ih_l0", "cells.bias_hh_l0"],
            r"head\.w": ["head.weight"],
            (lambda name: name.endswith("head.bias")): ["head.bias"],
        }.items()
    ):
        model = exact.Recurrent()
        path = tmp_path / f"{number}.h5"
        with gradscope.record(model, sgd(model), path, select=select, modules=nn.Linear, on_failure="ignore"):
            train_one(model, sgd(model), next(batches(1)))
        with gradscope.open_run(path) as dataset:
            assert dataset["parameter"].values.tolist() == names
            assert dataset["module"].values.tolist() == ["head"]
    with pytest.raises(InputError, match="modules chooses none"):
        gradscope.record(model, sgd(model), tmp_path / "x.h5", modules="nothing")


# -- updates (preset full) --------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=0.2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.2),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01, weight_decay=0.2),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_update_and_the_penaltys_share_of_it(tmp_path: Path, kind: str) -> None:
    """Twin: what each optimizer's definition makes of the penalty alone, in float64."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    moments = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]
    sizes, shares, cosines, last = [], [], [], None
    with gradscope.record(model, optimizer, tmp_path / "r.h5", preset="full", on_failure="ignore"):
        for step, (x, y) in enumerate(batches(8), 1):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            before = [p.detach().double() for p in model.parameters()]
            grads = [p.grad.double() for p in model.parameters()]
            optimizer.step()
            change = [p.detach().double() - b for p, b in zip(model.parameters(), before, strict=True)]
            penalty = [
                penalty_update(kind, optimizer, p, b, moments, i, step)
                for i, (p, b) in enumerate(zip(model.parameters(), before, strict=True))
            ]
            sizes.append([c.abs().mean().item() for c in change])
            loss = [(c - r).abs().mean() for c, r in zip(change, penalty, strict=True)]
            shares.append([(a / (a + r.abs().mean())).item() for a, r in zip(loss, penalty, strict=True)])
            if last is not None:
                pairs = zip(grads, last, strict=True)
                cosines.append([((g * h).sum() / (g.norm() * h.norm())).item() for g, h in pairs])
            last = grads
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["update_mean_abs"].values, sizes, rtol=1e-3)
        np.testing.assert_allclose(dataset["update_proportion"].values, shares, rtol=2e-3)
        np.testing.assert_allclose(dataset["gradient_coherence"].values[1:], cosines, rtol=1e-3, atol=1e-5)
        assert np.isnan(dataset["gradient_coherence"].values[0]).all()


def penalty_update(
    kind: str, optimizer: torch.optim.Optimizer, p: Tensor, before: Tensor, moments: list[Tensor], i: int, step: int
) -> Tensor:
    """Δw_R from the definition of each optimizer, in float64."""
    group = optimizer.param_groups[0]
    lr, pull = group["lr"], group["weight_decay"] * before
    if kind == "adamw":
        return -lr * pull
    if "betas" not in group:
        mu, damping = group["momentum"], group["dampening"]
        moments[i] = pull if step == 1 else mu * moments[i] + (1 - damping) * pull
        return -lr * (pull + mu * moments[i] if group["nesterov"] else moments[i] if mu else pull)
    first, second = group["betas"]
    moments[i] = first * moments[i] + (1 - first) * pull
    state = optimizer.state[p]
    if kind == "adamax":
        return -lr / (1 - first**step) * moments[i] / state["exp_inf"].double()
    square = state["max_exp_avg_sq" if kind == "amsgrad" else "exp_avg_sq"].double()
    return -lr * (moments[i] / (1 - first**step)) / ((square / (1 - second**step)).sqrt() + group["eps"])


def test_histograms_and_units(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mlp()
    optimizer = sgd(model)
    every = {"histograms": 3, "activations": 2}
    weights, gradients = [], []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", preset="full", every=every, on_failure="ignore"):
        for x, y in batches(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            weights.append([p.detach().double().abs().numpy().ravel() for p in model.parameters()])
            gradients.append([p.grad.double().abs().numpy().ravel() for p in model.parameters()])
            optimizer.step()
            with torch.no_grad():
                model[2].weight[0] = 0.0
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        edges = [*dataset["bin"].values, np.inf]
        for name, seen in (("weight_histogram", weights), ("loss_gradient_histogram", gradients)):
            found = dataset[name].values
            assert np.isnan(found[[1, 2, 4, 5]]).all()
            for step in (0, 3):
                twin = [np.histogram(values, edges)[0] for values in seen[step]]
                np.testing.assert_array_equal(found[step], twin)
        assert dataset["weight_histogram"].values[3, 2, 0] == 8  # exact zeros have a bin of their own
        names = dataset["unit"].values.tolist()
        assert names == [f"{m}:{i}" for m, n in (("0", 8), ("2", 8), ("4", 3)) for i in range(n)]
        scales = dataset["activation_unit_mean_abs"].values
        assert np.isnan(scales[1::2]).all()
        assert dataset["activation_mean_abs"].values[0, 0] == pytest.approx(scales[0, :8].mean(), rel=1e-5)


def test_the_share_of_a_proximal_step(tmp_path: Path) -> None:
    """Soft-thresholding moves every weight above the threshold by lr·λ."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L1(), Constant(1e-3))
    dataset = recorded(tmp_path / "r.h5", model, optimizer, 3, preset="full")
    g, at = dataset["loss_gradient_mean_abs"].values[0, 0], dataset["update_proportion"].values[0, 0]
    assert at == pytest.approx(g / (g + 1e-3), rel=0.05)


# -- several ranks ----------------------------------------------------------------------------------

RANK_STEPS = 40


def ranked_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def ranked_loop(model: nn.Module, path: Path, rank: int, size: int, mode: str = "create") -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.02)
    with gradscope.record(model, optimizer, path, preset="full", on_failure="ignore", mode=mode) as run:
        for step, (x, y) in enumerate(batches(RANK_STEPS, 10)):
            loss = nn.functional.cross_entropy(model(x[rank::size]), y[rank::size])
            optimizer.zero_grad()
            loss.backward()
            if step % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            run.log(loss=loss)


def rank(number: int, kind: str, folder: Path, sabotage: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"{kind}{sabotage}.store"), 2)
    dist.init_process_group("gloo", rank=number, world_size=2, store=store)
    model = ranked_net()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(model)
    if sabotage == "local":  # as soon as the sentinel hears of the pass, before the ranks have agreed
        BackwardPasses.heard = lambda self: self.end()  # type: ignore[method-assign]
    if sabotage == "own shard":
        from gradscope.recorder.distributed import Ranks

        Ranks.whole = lambda self, tables, fields: None  # type: ignore[method-assign]
    ranked_loop(model, folder / f"{kind}{sabotage}.h5", number, 2)
    if kind == "ddp" and not sabotage:
        for mode in ("create", "append"):  # a rank that does not measure goes on, too, and knows no modules
            ranked_loop(model, folder / "again.h5", number, 2, mode)
    end_rank()


#: Without us, fully_shard raises AttributeError in its first forward there.
needs_sharding = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason=f"torch {torch.__version__} shards on cards only"
)

#: What each rank sees of its own batch only; in a DDP run rank 0's is recorded, in a sharded one the mean.
OF_A_BATCH = {
    "loss", "activation_mean_abs", "activation_std", "activation_zero_fraction", "activation_gradient_mean_abs",
    "activation_unit_mean_abs", "activation_dead_fraction",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "sabotage"),
    [
        ("ddp", ""),
        pytest.param("fsdp", "", marks=needs_sharding),
        pytest.param("ddp", "local", marks=pytest.mark.slow),
        pytest.param("fsdp", "own shard", marks=[pytest.mark.slow, needs_sharding]),
    ],
)
def test_two_ranks_write_what_one_would(tmp_path: Path, kind: str, sabotage: str) -> None:
    mp.start_processes(rank, (kind, tmp_path, sabotage), nprocs=2, start_method="forkserver")
    ranked_loop(ranked_net(), tmp_path / "one.h5", 0, 1)
    with gradscope.open_run(tmp_path / "one.h5") as one, gradscope.open_run(tmp_path / f"{kind}{sabotage}.h5") as two:
        assert two["parameter"].values.tolist() == one["parameter"].values.tolist()
        assert two.sizes["step"] == RANK_STEPS and two.attrs["status"] == "finished"
        assert json.loads(two.attrs["config"])["world_size"] == 2
        wrong = [
            name
            for name in one.data_vars
            if name not in OF_A_BATCH | {"time"}
            and not np.allclose(
                one[name].values.astype(float), two[name].values.astype(float), rtol=1e-3, atol=1e-6, equal_nan=True
            )
        ]
        assert bool(wrong) == bool(sabotage), wrong
        if kind == "ddp" and not sabotage:
            with gradscope.open_run(tmp_path / "again.h5") as again:
                assert again.sizes["step"] == 2 * RANK_STEPS and again.attrs["status"] == "finished"
        if kind == "fsdp" and not sabotage:
            np.testing.assert_allclose(two["loss"].values, one["loss"].values, rtol=1e-4)


def test_a_recording_leaves_no_group_of_its_own_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their threads could abort the interpreter at its end; the training's own end of all groups may come first."""

    def meet(name: str) -> Ranks:
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.FileStore(str(tmp_path / name), 1))
        return Ranks(0, 2, sharded=True)

    try:
        ranks = meet("first")
        own = (ranks._decisions, ranks._rows)
        assert [dist.get_process_group_ranks(group) for group in own] == [[0], [0]]
        ranks.leave()
        for group in own:
            with pytest.raises((KeyError, ValueError)):
                dist.get_process_group_ranks(group)
        refused = Ranks(0, 2, sharded=False)
        own = (refused._decisions,)
        monkeypatch.setattr(Ranks, "here", lambda parameters: refused)
        with pytest.raises(InputError):
            gradscope.record(model := mlp(), sgd(model), tmp_path / "first" / "r.h5")  # no folder but a file
        with pytest.raises((KeyError, ValueError)):
            dist.get_process_group_ranks(own[0])
        late, later = Ranks(0, 2, sharded=True), Ranks(0, 2, sharded=True)
        dist.destroy_process_group()
        late.leave()
        meet("second")
        later.leave()
    finally:
        dist.destroy_process_group()


def test_a_strength_over_l2_in_the_ring_is_that_of_the_step(tmp_path: Path) -> None:
    """A scheduler that changes the decay between two steps: each row has the strength that acted."""
    model = mlp()
    optimizer = sgd(model)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore"):
        for step, batch in enumerate(batches(5)):
            optimizer.param_groups[0]["weight_decay"] = 0.02 * step
            train_one(model, optimizer, batch)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        r, w = dataset["penalty_gradient_mean_abs"].values[:, 0], dataset["weight_mean_abs"].values[:, 0]
        np.testing.assert_allclose(r / w, [0.02 * step for step in range(5)], rtol=1e-4, atol=1e-9)
