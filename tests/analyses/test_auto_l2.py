"""The study of Auto L2: its net, its methods, and both ways to count steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from analyses.auto_l2 import plot, training
from analyses.auto_l2.methods import ALL, FIXED, MOVING, PARTS, schedule_of
from analyses.auto_l2.networks import Size, lecun, network, side
from analyses.auto_l2.reported import REPORTED
from analyses.auto_l2.study import cells
from analyses.common import images, study


def asked(folder: Path, scale: str = "small", dataset: str = "digits") -> study.Options:
    return study.Options(dataset, scale, 1, "cpu", folder, 1, "local", PARTS, folder / f"{scale}-{dataset}.jsonl")


def test_the_documents_net() -> None:
    def count(norm: bool) -> int:
        return sum(p.numel() for p in network((3, 32, 32), 10, Size(), norm=norm).parameters())

    assert side(32) == 6
    assert count(False) == 6_224_210
    assert count(True) == 6_224_210 + 4 * 300
    with pytest.raises(gradscope.InputError, match="8 × 8 pixels are too small"):
        network((1, 8, 8), 10, Size(4, 4), norm=False)


def test_lecun_initialisation() -> None:
    torch.manual_seed(0)
    model = network((1, 16, 16), 10, Size(32, 64), norm=True)
    lecun(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx((2 / module.weight[0].numel()) ** 0.5, rel=0.15)
            assert not module.bias.any()


def test_a_cool_down_longer_than_an_epoch_never_ends_within_it() -> None:
    """From .001 on the cool-down lasts 100 steps: an epoch of 45 counted anew never gets there."""
    through, within = (schedule_of(method, 45) for method in ("Auto L2", "Auto L2, within the epoch"))
    for step in range(0, 3000, 5):
        for schedule in (through, within):
            assert schedule is not None
            schedule.observe(step, 1.0 if step < 5 else 2.0, 0.5)
    assert isinstance(through, gradscope.AutoL2)
    assert isinstance(within, gradscope.AutoL2)
    assert within.state.strength == pytest.approx(1e-3)
    assert through.state.strength == pytest.approx(1e-5)


def test_every_method_has_a_schedule() -> None:
    assert schedule_of("none", 45) is None
    for method in ALL[1:]:
        schedule = schedule_of(method, 45)
        assert schedule is not None
        assert schedule.strength == (FIXED[method.split(",")[0]] if method[0].isdigit() else 0.1)
    assert set(REPORTED["plain"]) >= {*FIXED, *list(MOVING)[:5]}


def test_a_training_from_cell_to_table_and_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SMALL_SCALE", replace(training.SMALL_SCALE, size=Size(4, 8), epochs=1))
    wanted = [cell for cell in cells(asked(tmp_path)) if cell["method"] in ("none", "Auto L2")]
    rows = [{**cell, **training.train(cell, asked(tmp_path))} for cell in wanted if cell["net"] == "batch-norm"]
    by_method = {row["method"]: row for row in rows}
    assert by_method["none"]["strength"]["value"] == []
    assert by_method["Auto L2"]["strength"]["value"][0] == pytest.approx(0.1)
    assert by_method["Auto L2"]["smallest_norm"] < 1
    assert "| Auto L2 |" in plot.table(rows, "batch-norm")
    assert [len(panel.curves) for panel in plot.panels(rows, plot.FIGURES["figures-1-and-3"])] == [0, 0, 2, 1]


def test_paper_scale_on_a_tiny_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's own sizes and all, but for the images and the length."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, 32, 32, generator=generator), torch.arange(12) % 10
    monkeypatch.setattr(images, "load", lambda *a, **k: images.ImageSet("cifar10", x, y, x, y, 10, True))
    monkeypatch.setattr(training, "PAPER_SCALE", replace(training.PAPER_SCALE, epochs=1))
    row = training.train({"net": "plain", "method": "method 3, 5 %", "seed": 0}, asked(tmp_path, "paper", "cifar10"))
    assert row["steps_per_epoch"] == 1
    assert len(row["accuracy"]) == 1
