"""Weight decay in normalised nets under AdamW: nets, text, cells, and what the tables say of rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from analyses.common import command, images, study
from analyses.common.results import Results
from analyses.modern_settings import networks, plan, tables, text, training


def asked(folder: Path) -> study.Options:
    return study.Options("cifar10", "small", 1, "cpu", folder, 1, "local", (), folder / "small-cifar10.jsonl")


def test_a_resnet_of_the_published_shape() -> None:
    whole, narrow = networks.resnet18(1.0), networks.resnet18(0.25)
    assert sum(p.numel() for p in whole.parameters()) == 11_173_962  # torchvision's, but for stem and classes
    assert sum(isinstance(m, nn.BatchNorm2d) for m in narrow.modules()) == 20
    assert narrow(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert narrow.get_submodule("layer4.1.conv2").weight.shape == (128, 128, 3, 3)


def test_no_character_sees_those_after_it() -> None:
    model = networks.CharacterTransformer(20, 8, 16, 2)
    x = torch.randint(20, (3, 8))
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 20
    one, other = model(x), model(changed)
    assert one.shape == (3, 20, 8)
    assert torch.allclose(one[:, :, :5], other[:, :, :5], atol=1e-6)
    assert not torch.allclose(one[:, :, 5:], other[:, :, 5:], atol=1e-6)


def test_text_is_numbers_of_characters() -> None:
    found = text.numbers("a\n\té~")
    assert "".join(text.CHARACTERS[k] for k in found) == "a\n ?~"
    made = text.Text(text.numbers("abab"), text.numbers("ab"))
    assert made.entropy == pytest.approx(0.6931, abs=1e-4)


def test_stretches_are_followed_by_their_next_characters() -> None:
    x, y = next(training.of_text(torch.arange(200), 5))
    assert x.shape == y.shape == (5, training.CONTEXT)
    assert torch.equal(x + 1, y)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny nets and data, a dozen steps."""
    nets = {
        "resnet18": lambda: networks.resnet18(1 / 16), "vit": lambda: networks.ViT(8, 1),
        "characters": lambda: networks.CharacterTransformer(len(text.CHARACTERS), training.CONTEXT, 8, 1),
    }  # fmt: skip
    monkeypatch.setattr(training, "network", lambda how: nets[how.net]())
    settings = {name: dataclasses.replace(how, steps=12, batch=8) for name, how in plan.SETTINGS.items()}
    monkeypatch.setattr(training, "SETTINGS", settings)
    x, y = torch.randn(40, 3, 32, 32), torch.arange(40) % 10
    monkeypatch.setattr(images, "load", lambda *a, **k: images.ImageSet("cifar10", x, y, x, y, 10, True))
    characters = text.numbers("def f(x):\n    return x\n" * 40)
    monkeypatch.setattr(text, "sources", lambda: text.Text(characters, characters))


@pytest.mark.parametrize("setting", plan.SETTINGS)
def test_a_cell_says_what_its_user_is_told(setting: str, small: None, tmp_path: Path) -> None:
    row = training.train({"setting": setting, "weight_decay": 0.05, "seed": 0}, asked(tmp_path))
    assert row["verdict"] in row["told"]
    assert len(row["curve"]) == 12
    assert row["loss"] == row["curve"][-1]
    assert (row["invariant"] > 0) == (setting == "resnet18")
    assert ("accuracy" in row) == (setting != "characters")


def rows() -> list[study.Row]:
    made = []
    for decay, loss in ((0.0, 1.5), (1.0, 2.0), (5.0, 2.29), (10.0, 2.3)):
        for seed in (0, 1):
            failed = loss > 2.2 and not (decay == 5 and seed)
            made.append({
                "setting": "vit", "weight_decay": decay, "seed": seed, "loss": loss, "baseline": 2.303,
                "failed_by_label": failed, "failed": decay >= 5, "verdict": "collapsed" if decay >= 5 else "healthy",
                "decided": 40 if decay >= 5 else None, "told": f"said at {decay}", "findings": [], "invariant": 0,
                "of_parameters": 55, "weights": [10.0, 5.0], "accuracy": 0.4, "machine": "a made-up machine",
                "date": "2026-01-01", "python": "3.11",
            })  # fmt: skip
    return made


def test_tables_say_where_runs_begin_to_fail_and_where_verdicts_are_wrong(tmp_path: Path) -> None:
    said = tables.tolerance(rows())
    assert said == "every run learns up to 1, the first fails at 5, all at 10"
    assert tables.wrong(rows()) == "8 runs: 1 false alarms, 0 that fail by the label and are not called failing"
    assert tables.tolerance(rows()[:4]).startswith("none up to a weight decay of 1, the strongest tried")
    assert "| 5 | 2 | 2.29 | 0.4 | 1 of 2 | collapsed | 40, 40 | 0 of 55 | 0.5 | – |" in tables.decays(rows())


def test_the_commands(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = []
    monkeypatch.setattr(study, "complete", lambda train, cells, asked, here: planned.extend(cells))
    words = ["run", "modern_settings", "--seeds", "2", "--only", "vit", "characters", "--out", str(tmp_path)]
    assert command.main(words) == 1  # nothing was trained
    assert [cell["seed"] for cell in planned] == [0] * 14 + [1] * 14
    Results(tmp_path / "small-cifar10.jsonl").append(rows()[0])
    assert command.main(["plot", "modern_settings", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "tables.md")
    assert "## vit: 1 of 21 runs" in (tmp_path / "tables.md").read_text()
