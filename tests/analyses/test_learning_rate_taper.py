"""The study of tapered regularization: nets, Table 1 epoch by epoch, what acts in a training, both scales."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from analyses.common import images, study
from analyses.common.results import Results, Row
from analyses.learning_rate_taper import plot, training
from analyses.learning_rate_taper.networks import residual
from analyses.learning_rate_taper.protocol import PAPER, SETTINGS, SMALL, SPARSE, attach, schedule, sgd
from analyses.learning_rate_taper.study import PARTS, cells
from gradscope.regularizers.masks import SCHEMES
from gradscope.regularizers.schedules import parse_schedule
from gradscope.types import InputError
from tests.helpers.image_files import cifar_files

#: The document's Table 1: last epoch, rate, decay of schemes 01 and 02, sparsity of schemes 21, 22 and 23.
TABLE_1 = [
    (50, 1e-1, 1e-4, 1e-4, 0, 0, 0),
    (100, 1e-2, 1e-4, 1e-4, 0, 0, 0),
    (150, 1e-3, 8e-4, 4e-4, 0.5, 0.8, 0.3),
    (200, 1e-4, 1.6e-3, 8e-4, 0.5, 0.8, 0.3),
    (250, 1e-5, 1.6e-3, 8e-4, 0.5, 0.8, 0.3),
    *(
        (end + 20 * k, 10.0 ** -(k + 1), *decays, 0, 0, 0)
        for end in (270, 370)
        for k, decays in enumerate([(1e-4, 1e-4), (1e-4, 1e-4), (8e-4, 4e-4), (1.6e-3, 8e-4), (1.6e-3, 8e-4)])
    ),
]


def asked(folder: Path, scale: str = "small", dataset: str = "digits") -> study.Options:
    return study.Options(dataset, scale, 2, "cpu", folder, 1, "local", PARTS, folder / "rows.jsonl")


@pytest.mark.parametrize(("layers", "count"), [(14, 172_506), (32, 464_154)])
def test_the_residual_nets(layers: int, count: int) -> None:
    model = residual(layers, 3, 10)
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("layers", [2, 15])
def test_other_depths_are_refused(layers: int) -> None:
    with pytest.raises(InputError, match=r"6n \+ 2"):
        residual(layers, 3, 10)


def test_table_1_epoch_by_epoch() -> None:
    assert PAPER.ends == [250, 350, 450]
    begin = 0
    for end, rate, *values in TABLE_1:
        for epoch in range(begin, end):
            assert PAPER.rate(epoch) == pytest.approx(rate)
            tapered = [schedule(SETTINGS[name], "table", PAPER) for name in ("scheme 01", "scheme 02")]
            decays = [2 * s.at(epoch=epoch, learning_rate=PAPER.rate(epoch), highest_rate=0.1) for s in tapered]
            degrees = [parse_schedule(PAPER.sparsity(s.sparse)).at(epoch=epoch) for s in SPARSE.values()]
            assert [*decays, *degrees] == pytest.approx(values)
        begin = end
    assert begin == 450
    for name, text in (("scheme 21", "sch21"), ("scheme 22", "sch22"), ("scheme 23", "sch23")):
        assert PAPER.sparsity(SPARSE[name].sparse) == SCHEMES[text]


def test_the_text_names_decays_ten_times_those_of_the_table() -> None:
    fixed = [SETTINGS[f"fixed {k}e-4"] for k in (1, 2, 4, 8)]
    assert [2 * schedule(s, "text", PAPER).at() for s in fixed] == pytest.approx([1e-3, 2e-3, 4e-3, 8e-3])


def test_what_acts_in_a_training_is_what_the_table_says(tmp_path: Path) -> None:
    how = dataclasses.replace(PAPER, phases=(2, 1, 1))
    torch.manual_seed(0)
    model = nn.Linear(6, 4, dtype=torch.float64)
    optimizer, scheduler = sgd(model, how)
    both = dataclasses.replace(SETTINGS["scheme 01"], sparse=0.5)
    attach(optimizer, both, "table", how, seed=0)
    moved = []
    with gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore") as recording:
        for epoch in range(how.ends[-1]):
            recording.epoch(epoch)
            before = model.weight.detach().clone()
            optimizer.zero_grad()
            optimizer.state.clear()  # without momentum, what moves is what has a gradient or a decay
            loss = model(torch.randn(8, 6, dtype=torch.float64)).square().mean()
            loss.backward()
            optimizer.step()
            assert model.weight.grad is not None
            decay = schedule(both, "table", how).at(learning_rate=how.rate(epoch), highest_rate=0.1) * 2
            update = before - model.weight
            expected = how.rate(epoch) * (model.weight.grad + decay * before)
            moved.append(float((update - expected).abs().gt(1e-12).float().mean()))
            recording.log(loss=loss)
            scheduler.step()
    with gradscope.open_run(tmp_path / "run.h5") as dataset:
        decays = 2 * dataset["strength"].values[:, 0]
        rates = dataset["learning_rate"].values[:, 0]
    assert rates == pytest.approx([how.rate(epoch) for epoch in range(20)])
    annealing = [1e-4, 1e-4, 8e-4, 1.6e-3, 1.6e-3]
    assert decays == pytest.approx([d for d in annealing for _ in range(2)] + 2 * annealing, rel=1e-5)
    assert moved[:4] == [0] * 4
    assert all(share == pytest.approx(0.5, abs=0.1) for share in moved[4:8])
    assert moved[10:] == [0] * 10


def test_cells_of_both_scales(tmp_path: Path) -> None:
    small, paper = cells(asked(tmp_path)), cells(asked(tmp_path, "paper", "cifar100"))
    assert len(small) == 2 * (12 + 12 + 3 + 6)
    assert len(paper) == 2 * (12 + 12 + 3)
    assert {c["layers"] for c in small if c["setting"] in SPARSE} == {32}  # Figure 5
    assert {c["layers"] for c in paper if c["setting"] in SPARSE} == {14}  # Figure 6
    with pytest.raises(InputError, match="svhn"):
        training.protocol(asked(tmp_path, dataset="svhn"))


def test_a_small_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, "digits", dataclasses.replace(SMALL["digits"], phases=(1, 1, 1), width=2, few=50))
    training.prepared.cache_clear()
    row = training.train({"layers": 14, "setting": "scheme 21", "reading": "text", "seed": 0}, asked(tmp_path))
    assert len(row["curve"]) == 15
    assert len(row["ends"]) == 3
    assert row["ends"][0].keys() == {"loss", "error"}
    assert len(training.prepared(asked(tmp_path))[1]) == 360 + 1387  # what is left over tells more of the ends
    training.prepared.cache_clear()


def test_the_protocol_of_the_document_on_files_of_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_files(tmp_path, fine=True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).exists())
    monkeypatch.setattr(training, "PAPER", dataclasses.replace(PAPER, phases=(1, 1, 1), few=10))
    images.load.cache_clear()
    training.prepared.cache_clear()
    row = training.train({"layers": 14, "setting": "scheme 01", "reading": "table", "seed": 0},
                    asked(tmp_path, "paper", "cifar100"))  # fmt: skip
    assert len(row["curve"]) == 15
    assert all(end["loss"] > 0 for end in row["ends"])


def test_tables_and_figures(tmp_path: Path) -> None:
    def row(setting: str, seed: int, loss: float) -> Row:
        end = {"loss": loss + 0.01 * seed, "error": loss / 10}
        cell = {"layers": 14, "setting": setting, "reading": "table", "seed": seed}
        return {**cell, "ends": [end] * 3, "curve": [[0.1, loss, 0.05]] * 40}

    rows = [row(name, seed, loss) for name, loss in (("fixed 1e-4", 0.5), ("scheme 01", 0.4)) for seed in (0, 1)]
    text = "\n".join(plot.table(rows, 1, SMALL["digits"], "digits"))
    assert "| table | scheme 01: 0.003 to 0.048 | 2 | 0.4050 [0.4000, 0.4100]" in text
    assert "| table | fixed 8e-4: 0.024 | 0 | missing" in text
    assert "scheme 01 against fixed 1e-4: after phase 1 loss -0.1000 (p " in text
    Results(tmp_path / "small-digits.jsonl").append(*rows)
    drawn = plot.figures(tmp_path)
    assert list(drawn) == ["figure1.png"]  # nothing to show of Figure 2
    drawn["figure1.png"](tmp_path / "figure1.png")
