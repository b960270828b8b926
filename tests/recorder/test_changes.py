"""Gradients that a loop changes where torch does not count it, and those that it averages over ranks by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import gradscope
from gradscope.recorder.meter import RECHECK, Meter
from tests.helpers.loops import batches, end_rank, mlp

Change = Callable[[Tensor], object]

CHANGES: dict[str, Change] = {
    "data in place": lambda g: g.data.mul_(0.1),
    "data replaced": lambda g: setattr(g, "data", g.data * 0.1),
    "numpy": lambda g: np.multiply(g.numpy(), 0.1, out=g.numpy()),
    "data of a view": lambda g: g.view(-1).data.mul_(0.1),
    "counted": lambda g: g.mul_(0.1),
}


def recorded(path: Path, change: Change, steps: int = 40, begin: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """Clip coefficients, gradient norms beside those before the change, and ``capture``; the steps before are plain."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own = []
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        for step, (x, y) in enumerate(batches(steps)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            own.append([p.grad.double().norm().item() for p in model.parameters() if p.grad is not None])
            if step >= begin:
                for p in model.parameters():
                    assert p.grad is not None
                    with torch.no_grad():
                        change(p.grad)
            optimizer.step()
            run.verdict  # noqa: B018 (rows leave, and are looked at)
    with gradscope.open_run(path) as dataset:
        np.testing.assert_allclose(dataset["loss_gradient_norm"].values, own, rtol=1e-5)
        return dataset["clip_coefficient"].values, own, json.loads(dataset.attrs["capture"])


@pytest.mark.parametrize("kind", CHANGES)
def test_changes_that_no_version_counts_are_seen(tmp_path: Path, kind: str) -> None:
    clip, _, capture = recorded(tmp_path / "r.h5", CHANGES[kind])
    np.testing.assert_allclose(clip, 0.1, rtol=1e-4)
    assert ("changed_past_counters" in capture) == (kind != "counted")


def test_a_clamp_is_not_one_factor(tmp_path: Path) -> None:
    clip, _, _ = recorded(tmp_path / "r.h5", lambda g: g.data.clamp_(-0.01, 0.01))
    assert np.isnan(clip).all()


def test_they_need_the_second_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meter, "_looks", lambda self: False)
    clip, _, _ = recorded(tmp_path / "r.h5", CHANGES["numpy"])
    assert (clip == 1).all()


def test_a_change_that_begins_later_is_found_at_the_next_look(tmp_path: Path) -> None:
    clip, _, capture = recorded(tmp_path / "r.h5", CHANGES["data in place"], steps=4 * RECHECK, begin=RECHECK + 3)
    found = 2 * RECHECK - 1
    assert (clip[:RECHECK] == 1).all()
    np.testing.assert_allclose(clip[found + 2 :], 0.1, rtol=1e-4)
    assert capture["changed_past_counters"].endswith(f"since step {found}")


def test_untouched_gradients_have_a_coefficient_of_exactly_one(tmp_path: Path) -> None:
    clip, _, capture = recorded(tmp_path / "r.h5", lambda g: None)
    assert (clip == 1).all()
    assert "changed_past_counters" not in capture


# -- hooks of the script ----------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after", "penalty last", "behind a penalty"])
def test_what_the_scripts_own_step_hooks_do_is_seen(tmp_path: Path, when: str) -> None:
    """A hook that clips and sets rate and decay: before or after the recording began, beside a penalty or not."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.0)
    taken = 0

    def hook(given: Any, args: Any, kwargs: Any) -> None:
        nonlocal taken
        taken += 1
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        given.param_groups[0] |= {"lr": 0.01 * taken, "weight_decay": 0.02 * taken}

    clip, expected = [], []
    if when == "behind a penalty":
        gradscope.regularize(optimizer, gradscope.L1(), 0.003)
    if when in ("before", "penalty last"):
        optimizer.register_step_pre_hook(hook)
    run = gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore")
    if when == "penalty last":
        gradscope.regularize(optimizer, gradscope.L1(), 0.003)
    l1 = 0.003 if "penalty" in when else 0.0
    with run:
        if when in ("after", "behind a penalty"):
            optimizer.register_step_pre_hook(hook)
        for step, (x, y) in enumerate(batches(5)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            norms = [p.grad.double().norm() for p in model.parameters() if p.grad is not None]
            clip.append(0.01 / float(torch.stack(norms).norm()))
            expected.append(0.02 * (step + 1) * float(model[0].weight.detach().abs().mean()) + l1)
            optimizer.step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        seen = dataset.load()
    said = "step_hooks" in json.loads(seen.attrs["capture"])
    assert said == (when == "behind a penalty")
    if not said:
        first = int(when == "penalty last")  # the row of a penalty that has just come is measured at its step
        np.testing.assert_allclose(seen["clip_coefficient"].values[first:], clip[first:], rtol=1e-4)
        np.testing.assert_allclose(seen["learning_rate"].values[:, 0], 0.01 * np.arange(1, 6), rtol=1e-6)
        pulls = seen["penalty_gradient_mean_abs"].sel(parameter="0.weight").values
        np.testing.assert_allclose(pulls, expected, rtol=1e-5)


# -- ranks ------------------------------------------------------------------------------------------


def loop(model: nn.Module, called: nn.Module, path: Path, rank: int, size: int, average: bool) -> None:
    """``model`` is recorded, ``called`` is it or around it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, path, on_failure="ignore"):
        for x, y in batches(6, 10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(called(x[rank::size]), y[rank::size]).backward()
            for p in model.parameters() if average else ():
                assert p.grad is not None
                dist.all_reduce(p.grad)
                p.grad /= size
            optimizer.step()


def rank(number: int, kind: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=number, world_size=2, store=dist.FileStore(str(folder / "store"), 2))
    torch.manual_seed(0)
    model = mlp()
    called = nn.parallel.DistributedDataParallel(model) if kind == "inside ddp" else model
    loop(model, called, folder / "two.h5", number, 2, average=called is model)
    end_rank()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["by hand", "inside ddp"])
def test_gradients_averaged_by_hand_are_recorded_averaged(tmp_path: Path, kind: str) -> None:
    mp.start_processes(rank, (kind, tmp_path), nprocs=2, start_method="forkserver")
    torch.manual_seed(0)
    model = mlp()
    loop(model, model, tmp_path / "one.h5", 0, 1, average=False)
    with gradscope.open_run(tmp_path / "one.h5") as one, gradscope.open_run(tmp_path / "two.h5") as two:
        for name in ("loss_gradient_norm", "weight_norm", "weight_gradient_dot"):
            np.testing.assert_allclose(two[name].values, one[name].values, rtol=1e-3, atol=1e-6)
        said = json.loads(two.attrs["capture"])["loss_gradient"]
        assert said.startswith("as step() found it" if kind == "by hand" else "as the last backward pass")
        assert np.isnan(two["clip_coefficient"].values).all() == (kind == "by hand")
