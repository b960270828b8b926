"""What the studies share: image sets, the loop, cells that are trained once, and statistics."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.io import savemat
from torch import nn

import gradscope
from analyses.common import images, statistics, study
from analyses.common.loop import crops, epochs
from analyses.common.penalties import subgradient
from gradscope.types import InputError
from tests.helpers.image_files import cifar_files


def options(folder: Path) -> study.Options:
    return study.Options("digits", "small", 1, "cpu", folder, 2, "local", (), folder / "small-digits.jsonl")


def squared(cell: study.Cell, asked: study.Options) -> study.Row:
    """A training, as a study gives it."""
    if cell["value"] == 3:
        raise ValueError("three cannot be trained")
    marks = asked.results.with_name("marks")
    with marks.open("a") as file:
        file.write("x")
    return {"square": cell["value"] ** 2}


@pytest.mark.thorough
def test_cells_are_trained_once_and_a_failed_one_stays_missing(tmp_path: Path) -> None:
    asked = options(tmp_path)
    cells = [{"value": value, "seed": 0} for value in (1, 2, 3)]
    rows = study.complete(squared, cells, asked)
    assert [row["square"] for row in rows] == [1, 4]
    assert {"seconds", "machine", "torch", "date"} <= set(rows[0])
    asked.results.write_bytes(asked.results.read_bytes() + b'{"value": 9, "se')  # killed in the middle of a line
    again = study.complete(squared, [*cells, {"value": 4, "seed": 0}], asked)
    assert [row["square"] for row in again] == [1, 4, 16]
    assert (tmp_path / "marks").read_text() == "xxx"
    assert sorted(json.loads(line)["value"] for line in asked.results.read_text().splitlines()) == [1, 2, 4]


def test_the_command_line_of_a_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def parse(*words: str) -> study.Options:
        monkeypatch.setattr(sys, "argv", ["run", *words])
        return study.options("A study.", tmp_path, ("curves", "table"), ("pairs", "cifar100"), seeds=3)

    assert parse().dataset == "pairs"
    paper = parse("--scale", "paper", "--only", "table")
    assert (paper.dataset, paper.paper, paper.only) == ("cifar100", True, ("table",))
    assert paper.results == tmp_path / "paper-cifar100.jsonl"
    wrong = [
        ["--seeds", "0"],
        ["--executor", "slurm"],
        ["--device", "gpu"],
        ["--device", "mps"],
        ["--device", "cuda:99"],
    ]
    for option, value in wrong:
        with pytest.raises(InputError, match=value):
            parse(option, value)
    with pytest.raises(SystemExit) as left:
        parse("--only", "figures")
    assert left.value.code == 2
    assert "figures" in capsys.readouterr().err


def test_one_command_at_a_time_adds_to_a_file(tmp_path: Path) -> None:
    asked = options(tmp_path)
    with study._alone(asked.results), pytest.raises(InputError, match="another command is adding to"):
        study.complete(squared, [{"value": 1, "seed": 0}], asked)
    with pytest.raises(InputError, match="nothing of --only"):
        study.missing(squared, [], asked)
    (tmp_path / "a file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        study.complete(squared, [], dataclasses.replace(asked, results=tmp_path / "a file" / "small-digits.jsonl"))


def test_results_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "small-digits.jsonl"
    with pytest.raises(InputError, match="holds no training"):
        study.recorded(results)
    results.write_text('{"seed": 0}\n{"seed": 1\n')
    with pytest.raises(InputError, match="has a line that is no JSON"):
        study.rows_of(results)
    results.write_text('{"seed": 0}\n')
    monkeypatch.setattr(sys, "argv", ["plot"])
    assert study.asked_results("", tmp_path) == ([{"seed": 0}], "")
    results.rename(tmp_path / "paper-cifar10.jsonl")
    monkeypatch.setattr(sys, "argv", ["plot", "--results", "paper-cifar10"])
    assert study.asked_results("", tmp_path) == ([{"seed": 0}], "-paper-cifar10")


@pytest.mark.parametrize("name", ["auto_l2", "regularization_strategies", "strong_regularization"])
def test_figures_of_nothing_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = importlib.import_module(f"analyses.{name}.plot")
    monkeypatch.setattr(plot, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["plot"])
    with pytest.raises(SystemExit) as left:
        plot.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


STUDIES = (
    "auto_l2", "learning_rate_taper", "regularization_strategies", "shapes_of_regularization", "strong_regularization",
)  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("wrong", [["--dataset", "cifr"], ["--scale", "paper", "--dataset", "svhn"]])
def test_a_set_that_is_not_there_is_said_before_anything_is_trained(
    name: str, wrong: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module(f"analyses.{name}.run")
    monkeypatch.setattr(sys, "argv", ["run", *wrong, "--out", str(tmp_path), "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as left:
        run.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert wrong[-1] in said
    assert list(tmp_path.iterdir()) == []


def test_a_command_with_missing_cells_ends_with_1() -> None:
    study.command(lambda: 0)()
    with pytest.raises(SystemExit) as left:
        study.command(lambda: 2)()
    assert left.value.code == 1

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        study.command(interrupted)()
    assert left.value.code == 130


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
    assert statistics.p_value([1, 2, 3], [11, 12, 13]) < 0.001
    assert math.isnan(statistics.p_value([1], [2, 3]))
    ours, theirs = [0.91, 0.95, 0.98, 0.89], [0.90, 0.945, 0.96, 0.885]
    assert statistics.paired_p_value(ours, theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert statistics.paired_p_value(ours, theirs) < statistics.p_value(ours, theirs)
    assert math.isnan(statistics.paired_p_value([1, 2], [0, 1]))
    assert math.isnan(statistics.paired_p_value([0.95, 0.94, 0.93], [0.85, 0.84, 0.83]))
