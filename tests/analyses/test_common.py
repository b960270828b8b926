"""What the studies share: image sets, the loop, and statistics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.io import savemat
from torch import nn

import gradscope
from analyses.common import images, statistics
from analyses.common.loop import crops, epochs
from analyses.common.penalties import subgradient
from gradscope.types import InputError
from tests.helpers.image_files import cifar_files


@pytest.mark.parametrize(("name", "classes", "count"), [("digits", 10, 1437), ("pairs", 100, 5120)])
def test_embedded_images(name: str, classes: int, count: int) -> None:
    data = images.load(name)
    assert data.shape == (3, 32, 32)
    assert (len(data.x), data.classes, data.flips) == (count, classes, False)
    assert data.y.max() == classes - 1
    assert data.x.mean().abs() < 1e-5
    assert data.x.std() == pytest.approx(1, abs=1e-3)
    small = images.load("digits", size=8, channels=1)
    assert small.shape == (1, 8, 8)
    some, x, y = images.few(small, 400)
    assert (len(some.x), len(some.y), len(x), len(y)) == (400, 400, 1037, 1037)
    assert torch.equal(torch.cat([some.x, x]), small.x)


@pytest.mark.parametrize("name", images.DOWNLOADED)
def test_torchvisions_sets_are_read_where_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    with pytest.raises(InputError, match=f"{name} is not in .*download=True"):
        images.load(name, folder=tmp_path / "empty")
    if name == "svhn":
        for split in ("train", "test"):
            pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
            savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.arange(20)[:, None] % 10 + 1})
        check = torchvision.datasets.svhn
    else:
        cifar_files(tmp_path, fine=name == "cifar100")
        check = torchvision.datasets.cifar
    monkeypatch.setattr(check, "check_integrity", lambda path, md5=None: Path(path).exists())
    data = images.load(name, folder=tmp_path)
    assert data.shape == (3, 32, 32)
    assert (len(data.x), len(data.x_test)) == (100 if name == "cifar10" else 20, 20)
    assert data.x.mean((0, 2, 3)).abs().max() < 1e-5
    assert data.flips == (name != "svhn")


def test_the_loop_learns_the_digits() -> None:
    torch.manual_seed(0)
    data = images.load("digits", size=8, channels=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = list(epochs(model, optimizer, data, 5, 64))
    assert [epoch.number for epoch in found] == list(range(5))
    assert found[-1].test_accuracy > 0.9
    assert found[-1].loss < found[0].loss
    assert found[-1].test_loss < found[0].test_loss


def test_a_penalty_by_subgradient_reaches_the_gradient_and_leaves_the_weights_alone() -> None:
    weight = nn.Parameter(torch.tensor([[0.5, -0.01, 0.0]]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    gradscope.regularize(optimizer, subgradient(gradscope.L1()), gradscope.Constant(1.0))
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.allclose(weight, torch.tensor([[0.4, 0.09, 0.0]]))
    assert gradscope.L1().proximal_step


def test_crops_shift_and_flip_whole_images() -> None:
    torch.manual_seed(0)
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5) + 1
    assert torch.equal(crops(0, flips=False)(x), x)
    seen = {tuple(crops(0, flips=True)(x)[0, 0, 0].tolist()) for _ in range(40)}
    assert seen == {(1, 2, 3, 4, 5), (5, 4, 3, 2, 1)}
    shifted = crops(1, flips=False)(x)
    places = {(d, r) for d in range(3) for r in range(3)}
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    for image, whole in zip(shifted, padded, strict=True):
        assert any(torch.equal(image, whole[:, d : d + 5, r : r + 5]) for d, r in places)


def test_means_and_t_tests() -> None:
    found = statistics.mean([0.1, 0.2, 0.3])
    assert (found.value, found.std) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert math.isnan(statistics.mean([0.5]).half_width)
    assert math.isnan(statistics.mean([0.5, 0.6]).half_width)
    assert statistics.p_value([1, 2, 3], [11, 12, 13]) < 0.001
    assert math.isnan(statistics.p_value([1], [2, 3]))
    ours, theirs = [0.91, 0.95, 0.98, 0.89], [0.90, 0.945, 0.96, 0.885]
    assert statistics.paired_p_value(ours, theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert statistics.paired_p_value(ours, theirs) < statistics.p_value(ours, theirs)
    assert math.isnan(statistics.paired_p_value([1, 2], [0, 1]))
    assert math.isnan(statistics.paired_p_value([0.95, 0.94, 0.93], [0.85, 0.84, 0.83]))


def test_the_interval_of_a_share_holds_it_as_often_as_it_says() -> None:
    """By the binomial distribution itself, over shares from .005 to .995."""
    shares = np.linspace(0.005, 0.995, 199)
    for tries in (5, 10, 20, 100):
        ends = np.array([statistics.wilson(hits, tries) for hits in range(tries + 1)])
        assert (ends >= 0).all()
        assert (ends <= 1).all()
        held = (ends[:, :1] <= shares) & (shares <= ends[:, 1:])
        covered = (stats.binom.pmf(np.arange(tries + 1)[:, None], tries, shares) * held).sum(0)
        assert 0.945 <= covered.mean() <= 0.965, tries
        assert covered.min() > 0.82


def test_a_share_has_wilsons_interval() -> None:
    assert statistics.wilson(0, 739) == (0.0, pytest.approx(0.00517, abs=1e-5))
    assert statistics.wilson(5, 5) == (pytest.approx(0.5655, abs=1e-4), 1.0)
    assert statistics.wilson(0, 0) == (0.0, 1.0)
    for end in statistics.wilson(150, 172):  # where the share lies 1.96 of its deviations away
        assert abs(150 / 172 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 172))
