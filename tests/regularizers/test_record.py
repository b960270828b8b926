"""What a record says of penalties: several on one tensor, activity and constraint, controllers, scale invariance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torchvision.models.resnet import BasicBlock

import gradscope
from gradscope import CPR, L1, L2, AutoL2, Constant, Delayed, InputError, LInf, Lp, regularize, regularize_activity
from gradscope.processes.command import check_strength
from gradscope.quantities import Strength
from gradscope.regularizers.changes import StrengthChanges
from gradscope.regularizers.scale_invariance import invariant
from tests.helpers.loops import mlp, recorded, train


def strength_events(path: Path) -> list[tuple[int, str]]:
    with xr.open_dataset(path, group="events", engine="h5netcdf") as events:
        rows = zip(events["step"].values, events["kind"].values, events["text"].values, strict=True)
        return [(int(step), str(text)) for step, kind, text in rows if kind == "strength"]


def test_two_measured_penalties_on_one_tensor_share_no_row(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for penalty, strength in ((Lp(3), 0.3), (LInf(), 0.5), (L2(), 0.1)):
        regularize(optimizer, penalty, Constant(strength))
    expected: list[float] = []

    def measure(step: int) -> None:
        w = model[2].weight.detach()
        total = 0.3 * Lp(3).gradient(w) + 0.5 * LInf().gradient(w) + 0.1 * L2().gradient(w)
        expected.append(total.abs().mean().item())

    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        train(model, optimizer, 5, run, each=measure)
    with gradscope.open_run(path) as dataset:
        found = dataset["penalty_gradient_mean_abs"].sel(parameter="2.weight").values
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert dataset["strength"].values[:, 0] == pytest.approx(0.3)
    assert dict(strength_events(path)) == {0: strength_events(path)[-1][1]}
    assert [text for _, text in strength_events(path)] == [
        "l3: λ 0.3", "linf: λ 0.5", "l2: weight_decay 0.2 (λ 0.1)",
    ]  # fmt: skip


def test_activity_penalties_are_in_the_record(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    handle = regularize_activity(optimizer, model, L2(), Delayed(0.3, steps=2), nn.ReLU)
    expected: list[float] = []

    def measure(step: int) -> None:
        (pull,) = handle.pulls([model[0].weight])
        expected.append(0.3 * pull.abs().mean().item() if step >= 2 else 0.0)

    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        train(model, optimizer, 5, run, each=measure)
    with gradscope.open_run(path) as dataset:
        assert dataset.attrs["penalty"] == "activity:l2"
        found = dataset["penalty_gradient_mean_abs"].sel(parameter="0.weight").values
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        acts = {source["acts"] for source in json.loads(dataset.attrs["capture"])["penalties"]}
    assert "activity" in acts
    assert [step for step, _ in strength_events(path)] == [0, 2]


def test_a_constraint_is_in_the_record(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    handle = regularize(optimizer, L2(), CPR(20.0, warm_start=3))
    before: list[float] = []

    def measure(step: int) -> None:
        w, multiplier = model[0].weight, handle.bounds.multiplier[0]  # type: ignore[union-attr]
        before.append((2 * multiplier * w.abs().mean() / 0.5).item())

    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        train(model, optimizer, 40, run, each=measure)
    with gradscope.open_run(path) as dataset:
        found = dataset["penalty_gradient_mean_abs"].sel(parameter="0.weight").values
    assert max(before) > 0
    np.testing.assert_allclose(found, before, rtol=1e-4, atol=1e-9)


def test_a_controller_hears_what_is_logged(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = regularize(optimizer, L2(), AutoL2(0.1, every=2))
    path = tmp_path / "r.h5"
    losses = iter([1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        train(model, optimizer, 8, each=lambda step: run.log(loss=next(losses), accuracy=0.5))
    # Logged before the step: step 0 hears the loss of step 1 … at step 4 both 3 and 3 lie above the minimum 1.
    assert handle.now() < 0.1
    changes = strength_events(path)
    assert changes[0] == (0, "l2: weight_decay 0.2 (λ 0.1)")
    assert changes[1][1].startswith("l2: weight_decay 0.02")


def test_gradual_changes_make_two_events_and_sudden_ones_one_each() -> None:
    changes = StrengthChanges()
    for step, value in enumerate([0.0, 0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.5, 0.5]):
        changes.see(step, {"l1": value, "l2 in group 1": 1.0})
    assert changes.take() == [
        (0, "l1: λ 0"),
        (0, "l2 in group 1: weight_decay 2 (λ 1)"),
        (2, "l1: λ 0.1"),
        (5, "l1: stays at λ 0.3"),
        (7, "l1: λ 0.5"),
    ]
    assert changes.take() == []


@pytest.mark.parametrize("schedule", ["autol2", "cpr:5steps"])
def test_the_environment_cannot_put_a_controller_over_a_strength(
    schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", schedule)
    with pytest.raises(InputError, match="sets a strength of its own and cannot be put over a script's penalty"):
        gradscope.record(model, optimizer, tmp_path / "r.h5")


def test_the_environment_cannot_schedule_a_constraint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), CPR(warm_start=3))
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", "delayed:5steps")
    with pytest.raises(InputError, match=r"<cpr:3steps on 3 parameters> of the script has no strength to follow it"):
        gradscope.record(model, optimizer, tmp_path / "r.h5")


def test_the_environment_may_name_any_penalty_and_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STRENGTH", "0.02"), ("PENALTY", "group:neuron"), ("SCHEDULE", "ramp:4steps*taper:sch01")):
        monkeypatch.setenv(f"GRADSCOPE_{name}", value)
    model = mlp()
    dataset = recorded(tmp_path / "r.h5", model, torch.optim.SGD(model.parameters(), lr=0.1), 6)
    assert dataset.attrs["penalty"] == "group:neuron"
    np.testing.assert_allclose(dataset["strength"].values[:, 0], [0, 0.005, 0.01, 0.015, 0.02, 0.02], rtol=1e-6)
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", "autol2")
    dataset = recorded(tmp_path / "c.h5", model, torch.optim.SGD(model.parameters(), lr=0.1), 6)
    assert dataset["strength"].values[0, 0] == pytest.approx(0.02)


# -- scale invariance -----------------------------------------------------------------------------


class Attention(nn.Module):
    """One transformer block on six tokens, with the norm before (not invariant) its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x[:, :, None])).mean(1))


def block_net() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 8, 1), BasicBlock(8, 8), nn.Flatten(), nn.Linear(48, 3)
    )  # fmt: skip


def normalised(norm: nn.Module, bias: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32, bias=bias), norm, nn.ReLU(), nn.Linear(32, 3))


NETS: dict[str, tuple[Any, dict[str, str]]] = {
    "plain": (mlp, {}),
    "batch norm": (lambda: normalised(nn.BatchNorm1d(32), True), {"0.weight": "alone"}),
    "layer norm": (lambda: normalised(nn.LayerNorm(32), False), {"0.weight": "alone"}),
    "layer norm after a bias": (lambda: normalised(nn.LayerNorm(32), True), {"0.weight": "with bias"}),
    "group norm": (lambda: normalised(nn.GroupNorm(4, 32), False), {"0.weight": "alone"}),
    "residual block": (block_net, {"2.conv1.weight": "alone", "2.conv2.weight": "alone"}),
    "norm before attention": (Attention, {}),
}


@pytest.mark.parametrize("name", NETS)
def test_scale_invariant_weights_are_noticed(name: str, tmp_path: Path) -> None:
    make, expected = NETS[name]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        for _ in range(20):
            x = torch.randn(64, 6, generator=generator)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long() + (x[:, 1] > 0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(path) as dataset:
        noticed = json.loads(dataset.attrs["capture"])["scale_invariant"]
    assert noticed["parameters"] == expected
    assert ("effective learning rate" in noticed["note"]) == bool(expected)


def test_what_was_not_looked_for_is_said(tmp_path: Path) -> None:
    model = mlp()
    dataset = recorded(tmp_path / "r.h5", model, torch.optim.SGD(model.parameters(), lr=0.1), 20, preset="cheap")
    noticed = json.loads(dataset.attrs["capture"])["scale_invariant"]
    assert noticed["parameters"] is None
    assert "preset" in noticed["note"]


def test_a_weight_without_gradient_is_not_called_invariant() -> None:
    rows = np.zeros((20, 1))
    assert not invariant(rows, rows + 1, rows, np.array([100]))[0]
    assert invariant(rows + 1e-9, rows + 1, rows + 1, np.array([100]))[0]
    assert not invariant(rows[:7] + 1e-9, rows[:7] + 1, rows[:7] + 1, np.array([100]))[0]


def test_penalties_of_an_l1_run_read_as_before(tmp_path: Path) -> None:
    """Soft-thresholding is still known by shares, without measuring anything on the device."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L1(), Constant(0.01))
    dataset = recorded(tmp_path / "r.h5", model, optimizer, 5)
    found = dataset["penalty_gradient_mean_abs"].sel(parameter="0.weight").values
    np.testing.assert_allclose(found, 0.01 * (1 - dataset["weight_zero_fraction"].sel(parameter="0.weight")), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["taper:sch01", "ramp:5", "constant*cyclic:4", "constant+autol2"])
def test_a_strength_is_read_back_only_where_the_schedule_goes_there(schedule: str) -> None:
    check_strength(Path("r.h5"), Strength(0.1, "l2"), Strength(0.03, "l2"), schedule)
    with pytest.raises(InputError, match=r"and the record shows 0\.03"):
        check_strength(Path("r.h5"), Strength(0.1, "l2"), Strength(0.03, "l2"), "constant*delayed:5")
    with pytest.raises(InputError, match="the record shows the penalty l1"):
        check_strength(Path("r.h5"), Strength(0.1, "l2"), Strength(0.03, "l1"), schedule)
