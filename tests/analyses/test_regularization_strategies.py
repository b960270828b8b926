"""The study of regularization strategies: network, whitening, moved images, penalties as Keras adds them, scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from analyses.common import images, study
from analyses.common.loop import Epoch
from analyses.common.results import Results, Row
from analyses.regularization_strategies import plot, training
from analyses.regularization_strategies.networks import FILTERS, Whitening, network
from analyses.regularization_strategies.strategies import STRATEGIES, TABLE_1, Strategy, adversarial, attach, moves
from gradscope.regularizers.strategies import GaussianNoise
from tests.helpers.image_files import cifar_files


def asked(folder: Path, scale: str = "small", dataset: str = "digits") -> study.Options:
    return study.Options(dataset, scale, 1, "cpu", folder, 1, "local", ("table2",), folder / "rows.jsonl")


def test_the_network_of_the_document() -> None:
    model = network((3, 32, 32), 10)
    one, three, five = FILTERS
    channels, weights = 3, 0
    for _ in range(3):
        weights += channels * (one + 9 * three + 25 * five) + sum(FILTERS)
        channels += sum(FILTERS)
    assert sum(p.numel() for p in model.parameters()) == weights + 10 * channels + 10 == 1_380_328
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    kinds = [type(m) for m in network((1, 8, 8), 10, (2, 2, 2), dropout=0.1, noise=0.01)]
    assert (kinds.count(nn.Dropout), kinds.count(GaussianNoise)) == (3, 3)


def test_whitened_training_images_have_no_correlation() -> None:
    torch.manual_seed(0)
    x = (torch.randn(500, 12) @ torch.randn(12, 12)).view(500, 3, 2, 2)
    white = Whitening(x)(x).flatten(1)
    assert torch.allclose(white.T @ white / 500, torch.eye(12), atol=1e-3)
    constant = Whitening(torch.zeros(5, 1, 2, 2))  # nothing varies: only ε is left
    assert torch.allclose(constant(torch.full((1, 1, 2, 2), 2.0)), torch.tensor(2000.0))


def test_images_are_moved_as_asked() -> None:
    torch.manual_seed(0)
    x = torch.rand(6, 2, 8, 8)
    assert torch.allclose(moves(False, degrees=0, share=0)(x), x, atol=1e-5)
    seen = [any(torch.allclose(y, other, atol=1e-5) for other in (a, a.flip(-1)))
            for a, y in zip(x, moves(True, degrees=0, share=0)(x), strict=True)]  # fmt: skip
    assert all(seen)
    column = torch.zeros(200, 1, 8, 8)
    column[..., 4] = 1.0
    places = (moves(False, degrees=0, share=0.125)(column) * torch.arange(8.0)).sum((1, 2, 3)) / 8
    assert places.min() == pytest.approx(3, abs=0.05)  # one pixel either way
    assert places.max() == pytest.approx(5, abs=0.05)
    assert not torch.allclose(moves(False, degrees=10, share=0)(x), x, atol=1e-2)


@pytest.mark.parametrize("name", ["L1", "L2", "L1L2"])
def test_penalties_are_those_that_keras_adds_to_the_loss(name: str) -> None:
    """Kernels and biases in full, activities by image; by the update of plain SGD against autograd."""
    strategy = dataclasses.replace(TABLE_1[name], activity=0.01 * bool(TABLE_1[name].activity))
    torch.manual_seed(0)
    model = network((1, 4, 4), 3, (2, 2, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)  # no bias at the kink of L1
    x, y = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    outputs: list[torch.Tensor] = []
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    hooks = [m.register_forward_hook(lambda _, __, out: outputs.append(out)) for m in relus]
    loss = cross_entropy(model(x), y)
    assert strategy.penalty is not None
    omega = strategy.penalty.value
    loss = loss + strategy.activity * sum(omega(out) for out in outputs) / len(x)
    for p in model.parameters():
        loss = loss + (strategy.kernel if p.ndim > 1 else strategy.bias) * omega(p)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for hook in hooks:
        hook.remove()

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(strategy, optimizer, model)
    before = [p.detach().clone() for p in model.parameters()]
    cross_entropy(model(x), y).backward()
    optimizer.step()
    for old, p, gradient in zip(before, model.parameters(), expected, strict=True):
        assert torch.allclose(old - p, gradient, atol=1e-5)


def test_training_against_attacks_adds_the_loss_on_perturbed_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.randn(8, 1, 2, 2), torch.randint(2, (8,))
    losses = [adversarial(model, epsilon)(x, y).item() for epsilon in (0.0, 0.1, 1.0)]
    assert losses[0] == pytest.approx(cross_entropy(model(x), y).item())
    assert losses == sorted(losses)


def test_macro_precision_of_a_constant_is_what_the_document_reports() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.arange(10.0))
    found = training.scores(model, torch.zeros(100, 1, 2, 2), torch.arange(100) % 10)
    assert found == {"accuracy": 0.1, "precision": 0.01}


def test_best_weights_and_early_stopping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = dataclasses.replace(training.SMALL, epochs=3, filters=(2, 2, 2), few=60, attacked=20)
    monkeypatch.setattr(training, "SMALL", small)
    monkeypatch.setitem(STRATEGIES, "stops", Strategy(patience=0.34))
    training.prepared.cache_clear()
    row = training.train({"strategy": "stops", "seed": 0}, asked(tmp_path))
    curve = [accuracy for _, accuracy in row["curve"]]
    assert row["best_epoch"] == curve.index(max(curve))
    assert row["epochs"] == len(curve) == min(3, row["best_epoch"] + 2)
    assert row["best"]["validation"]["accuracy"] == pytest.approx(max(curve), abs=1e-4)
    assert row["attacked"].keys() == {"0.005", "0.05", "0.1", "0.2"}
    assert row["traces"]["weight"]["value"]


def test_the_protocol_of_the_document_on_files_of_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_files(tmp_path, fine=False)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).exists())
    paper = training.PAPER
    assert (paper.epochs, paper.batch, paper.filters, paper.few) == (200, 100, FILTERS, 0)
    monkeypatch.setattr(training, "PAPER", dataclasses.replace(paper, epochs=1, filters=(2, 2, 2), few=30))
    monkeypatch.setitem(STRATEGIES, "all", dataclasses.replace(TABLE_1["combination"], whitens=False))
    images.load.cache_clear()
    training.prepared.cache_clear()
    row = training.train({"strategy": "all", "seed": 1}, asked(tmp_path, "paper", "cifar10"))
    assert set(row["best"]) == {"training", "validation", "unseen"}
    assert "traces" not in row


def row(strategy: str, seed: int, accuracy: float) -> Row:
    """A row as `training.train` makes it."""
    scores = {"accuracy": accuracy, "precision": accuracy}
    weights = {"training": {**scores, "accuracy": 1.0}, "validation": scores, "unseen": scores}
    trace = {"step": [0.0, 9.0], "value": [1.0, 0.5]}
    return {
        "strategy": strategy, "seed": seed, "best": weights, "last": weights, "epochs": 30,
        "attacked": {str(e): accuracy / 2 for e in training.ATTACKS},
        "diagnosis": {"verdict": "healthy", "failed": False},
        "traces": {"proportion": trace, "weight": trace},
    }  # fmt: skip


def test_tables_and_figures(tmp_path: Path) -> None:
    rows = [row(name, seed, value + 0.01 * seed) for name, value in (("none", 0.8), ("L2", 0.9)) for seed in (0, 1)]
    lines = plot.table_2(rows, ["none", "L2", "L1"])
    assert "0.7785, 0.7790" in lines[2]
    assert "+0.100 (" in lines[3]
    assert lines[4].count("missing") == lines[0].count("|") - 2
    summary, names = plot.strategies_figure(rows)
    assert names == ["L2"]
    assert summary.curves[0].y == pytest.approx([0.1])
    assert summary.curves[2].y == pytest.approx([0.022])
    assert "0.4025" in plot.attacks(rows)[2]
    Results(tmp_path / "small-digits.jsonl").append(*rows)
    for name, draw in plot.figures(tmp_path).items():
        draw(tmp_path / name)
    assert {path.name for path in tmp_path.glob("*.png")} == {"table2.png", "table3.png"}


def test_the_first_of_equal_epochs_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Keras' ModelCheckpoint has it; 14/15 is more than itself rounded to four digits."""
    model = nn.Linear(1, 1)

    def passes(*_: object, **__: object) -> Iterator[Epoch]:
        for number in range(3):
            with torch.no_grad():
                model.weight.fill_(number)
            yield Epoch(number, 0.0, 1.0, 14 / 15, 0.0)

    monkeypatch.setattr(training, "epochs", passes)
    curve, best_epoch, best = training.fit(model, None, None, training.SMALL, Strategy(), None)
    assert (curve, best_epoch) == ([(1.0, 0.9333)] * 3, 0)
    assert float(best["weight"]) == 0
