"""The baseline from the targets that a loss function is given: each form of each loss, against what theory says."""

from __future__ import annotations

import gc
import json
import math
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as imported

import gradscope
from gradscope import Verdict
from gradscope.recorder.baseline import prior
from gradscope.recorder.baseline.estimate import Estimate, estimate
from gradscope.recorder.baseline.targets import TargetWatch

SHARES = torch.tensor([0.7, 0.2, 0.1])
WEIGHTS = torch.tensor([1.0, 3.0, 5.0])


def entropy(p: Tensor | list[float]) -> float:
    p = torch.as_tensor(p, dtype=torch.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * p.log()).sum())


def labels(n: int = 60) -> Tensor:
    """Every batch has these shares exactly, in any order."""
    return torch.arange(3).repeat_interleave((n * SHARES).round().long())[torch.randperm(n)]


def rare(n: int = 60) -> Tensor:
    return (torch.randperm(n) < n / 10).float()


def one_hot() -> Tensor:
    return 0.8 * F.one_hot(labels(), 3).float() + 0.2 / 3


def adversary(o: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of a discriminator: its view of the data, and of what the generator made up."""
    return loss(o[:30], torch.ones(30)) + loss(o[30:], torch.zeros(30))


def generator(o: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of a generator, in the step in which its discriminator is trained."""
    adversary(o, loss)
    return 0.5 * loss(o[30:], torch.ones(30))


#: Name: the loss of logits [60, 3], and the loss of the best constant predictor.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "cross_entropy": (lambda o: F.cross_entropy(o, labels()), entropy(SHARES)),
    "imported by name": (lambda o: imported(o, labels()), entropy(SHARES)),
    "module, sum": (lambda o: nn.CrossEntropyLoss(reduction="sum")(o, labels()), 60 * entropy(SHARES)),
    "divided": (lambda o: F.cross_entropy(o, labels()) / 4, entropy(SHARES) / 4),
    "none, then mean": (lambda o: F.cross_entropy(o, labels(), reduction="none").mean(), entropy(SHARES)),
    "ignore_index": (lambda o: F.cross_entropy(o, labels(), ignore_index=2), entropy([7, 2])),
    "class weights": (lambda o: F.cross_entropy(o, labels(), weight=WEIGHTS), entropy(SHARES * WEIGHTS)),
    "label smoothing": (
        lambda o: nn.CrossEntropyLoss(label_smoothing=0.1)(o, labels()), entropy(0.9 * SHARES + 0.1 / 3)
    ),
    "soft targets": (lambda o: F.cross_entropy(o, one_hot()), entropy(0.8 * SHARES + 0.2 / 3)),
    "nll": (lambda o: nn.NLLLoss()(o.log_softmax(1), labels()), entropy(SHARES)),
    "tokens": (
        lambda o: F.cross_entropy(o[:, :, None].expand(-1, -1, 9), labels(540).view(60, 9)), entropy(SHARES)
    ),
    "two calls": (lambda o: F.cross_entropy(o, labels()) + F.cross_entropy(-o, labels()), 2 * entropy(SHARES)),
    "a term beside it": (lambda o: F.cross_entropy(o, labels()) + 0.1 * o.square().mean(), entropy(SHARES)),
    "bce with logits": (lambda o: F.binary_cross_entropy_with_logits(o[:, 0], rare()), entropy([1, 9])),
    "bce, sum": (
        lambda o: nn.BCELoss(reduction="sum")(torch.sigmoid(o[:, :1]), rare()[:, None]), 60 * entropy([1, 9])
    ),
    "bce, pos_weight": (
        lambda o: F.binary_cross_entropy_with_logits(o[:, 0], rare(), pos_weight=torch.tensor(9.0)), 1.8 * math.log(2)
    ),
    "mse": (lambda o: F.mse_loss(o, 3 + 2 * torch.randn(60, 3)), 4.0),
    "half of mse": (lambda o: 0.5 * nn.MSELoss()(o, torch.tensor([0.0, 9.0, 1.0]) + torch.randn(60, 3)), 0.5),
    "mse, sum": (lambda o: nn.MSELoss(reduction="sum")(o, torch.randn(60, 3)), 180.0),
    "l1": (lambda o: F.l1_loss(o, torch.randn(60, 3)), math.sqrt(2 / math.pi)),
    "smooth l1": (lambda o: F.smooth_l1_loss(o, 100 * torch.randn(60, 3)), 100 * math.sqrt(2 / math.pi) - 0.5),
    "huber": (lambda o: F.huber_loss(o, 0.1 * torch.randn(60, 3)), 0.005),
    "in-batch contrast": (lambda o: F.cross_entropy(o @ o.T, torch.arange(60)), math.log(60)),
    "wider than the classes": (lambda o: F.cross_entropy(o.repeat(1, 300), labels()), entropy(SHARES)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_what_theory_says(name: str) -> None:
    loss, expected = CASES[name]
    torch.manual_seed(0)
    layer, at, losses = nn.Linear(4, 3), [0], {}
    watch = TargetWatch(lambda: at[0])
    try:
        for step in range(64):
            at[0] = step
            losses[step] = loss(layer(torch.randn(60, 4))).item()
    finally:
        watch.detach()
    assert not watch.problem
    found = estimate(watch.before(64), losses)
    assert isinstance(found, Estimate)
    assert found.loss == pytest.approx(expected, rel=0.03)
    assert found.source.startswith(("estimated: ", "assumed: "))


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda o: -(o.log_softmax(1)[torch.arange(60), labels()]).mean(), "no loss function of torch"),
        (
            lambda o: F.binary_cross_entropy_with_logits(o[:, 0], torch.ones(60)),
            "(of the call that is logged, in all steps) are the same",
        ),
        (lambda o: adversary(o[:, 0], F.binary_cross_entropy_with_logits), "(of each call) are the same: the loss"),
        (lambda o: generator(o[:, 0], F.mse_loss), "of the call that is logged"),
        (lambda o: generator(o[:, 0], F.binary_cross_entropy_with_logits), "of the call that is logged"),
        (lambda o: adversary(o[:, 0], F.mse_loss), "(of each call) are the same: the loss of an adversary"),
        (lambda o: F.mse_loss(o, torch.randn(60, 3)) * 0 - o.mean().square() - 1, "none of those that were seen"),
    ],
)
def test_what_the_targets_do_not_tell_is_said(loss: Callable[[Tensor], Tensor], why: str) -> None:
    layer, at, losses = nn.Linear(4, 3), [0], {}
    watch = TargetWatch(lambda: at[0])
    for step in range(20):
        at[0] = step
        losses[step] = loss(layer(torch.randn(60, 4))).item()
    watch.detach()
    found = estimate(watch.before(20), losses)
    assert isinstance(found, str)
    assert why in found


def test_few_targets_of_many_classes_are_not_taken_for_all() -> None:
    generator = np.random.default_rng(0)
    for classes, n in ((1000, 256), (100, 128), (10, 64)):
        counts = np.bincount(generator.integers(classes, size=n), minlength=classes).astype(float)
        plain = prior.of_classes(counts) / n
        assert plain + prior.unseen(counts, classes) == pytest.approx(math.log(classes), rel=0.06)
    sorted_by_class = np.array([60.0, 0, 0])
    assert prior.unseen(sorted_by_class, 3) == pytest.approx(0)


def test_equal_classes_are_told_from_others() -> None:
    generator = np.random.default_rng(0)
    for classes, n in ((3, 100), (10, 1024), (100, 512)):
        drawn = [generator.integers(classes, size=n) for _ in range(200)]
        same = np.mean([prior.look_equal(np.bincount(one, minlength=classes).astype(float)) for one in drawn])
        assert same > 0.97
    assert not prior.look_equal(np.array([700.0, 200, 100]))
    assert not prior.look_equal(np.bincount(generator.integers(10, size=256), minlength=1000).astype(float))
    zipf = np.bincount(generator.zipf(1.5, 2000).clip(1, 50) - 1, minlength=50).astype(float)
    assert not prior.look_equal(zipf)


def test_distances_against_a_grid() -> None:
    targets = np.random.default_rng(0).exponential(size=(400, 2))
    grid = np.linspace(0, 3, 3001)[:, None, None]
    off = np.abs(targets - grid)
    for threshold in (0.0, 0.3, 5.0):
        huber = np.where(off < threshold, off**2 / 2, threshold * (off - threshold / 2)) if threshold else off
        assert prior.of_distances(targets, threshold) == pytest.approx(huber.mean(1).min(0).mean(), rel=1e-4)


def test_a_record_holds_it_and_how_it_was_told(tmp_path: Path) -> None:
    """A letter model that knows the frequencies alone has learned nothing, wide as its output may be."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 30))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore", horizon=200) as run:
        for _ in range(200):
            loss = F.cross_entropy(model(torch.randn(60, 4)), labels())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
        live = run.verdict
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        capture = json.loads(dataset.attrs["capture"])
        assert dataset.attrs["baseline_loss"] == pytest.approx(entropy(SHARES), rel=0.03)
        assert capture["baseline_loss"].startswith("estimated: cross_entropy, 3 of 30 classes")
        assert capture["loss_kind"] == "cross_entropy"
        assert [step for step, _, _ in capture["baseline_history"]] == sorted(
            {s for s, _, _ in capture["baseline_history"]}
        )
        found = gradscope.diagnose(dataset)
    assert live.verdict is not Verdict.HEALTHY
    assert found.verdict is Verdict.STALLED
    assert any("estimated" in line for line in found.evidence)


def test_watching_changes_nothing_and_leaves_nothing() -> None:
    before = torch._C._nn.cross_entropy_loss, torch.binary_cross_entropy_with_logits
    watch, second = TargetWatch(lambda: 0), TargetWatch(lambda: 0)
    layer = nn.Linear(4, 3)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.CrossEntropyLoss())(layer(x), y)
    compiled = torch.compile(lambda a, b: F.cross_entropy(layer(a), b), backend="eager", fullgraph=True)(x, y)
    assert scripted.item() == compiled.item() == F.cross_entropy(layer(x), y).item()
    assert pickle.loads(pickle.dumps(F.cross_entropy)) is F.cross_entropy
    watch.detach()
    assert torch._C._nn.cross_entropy_loss is not before[0]  # the second one still looks
    known = weakref.ref(torch._C._nn.cross_entropy_loss)  # to TorchScript, by its id
    second.detach()
    assert (torch._C._nn.cross_entropy_loss, torch.binary_cross_entropy_with_logits) == before
    gc.collect()
    assert known() is not None, "another function would have its id, and be compiled as a loss"


def test_a_listener_that_fails_is_not_heard_of() -> None:
    def broken() -> int:
        raise RuntimeError("no step")

    watch = TargetWatch(broken)
    F.cross_entropy(nn.Linear(4, 3)(torch.randn(8, 4)), torch.randint(3, (8,))).backward()
    watch.detach()
    assert "no step" in watch.problem
    assert watch.before(99) == []


def test_only_training_calls_count(tmp_path: Path) -> None:
    at = [0]
    watch = TargetWatch(lambda: at[0])
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        F.cross_entropy(layer(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long))
    F.cross_entropy(layer(torch.randn(8, 4)).detach(), torch.zeros(8, dtype=torch.long))
    watch.detach()
    assert watch.before(1) == []
