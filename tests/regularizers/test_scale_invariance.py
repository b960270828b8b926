"""Weights of which the loss does not see the scale: found, or not claimed either way, row by row as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from gradscope.regularizers.scale_invariance import LONGEST, NONE, ROWS, SO_FAR, ScaleInvariance


def block(model: nn.Module) -> dict[str, np.ndarray]:
    """One row, as the recorder hands it on."""
    weights = [
        (p.detach(), p.grad if p.grad is not None else torch.full_like(p, torch.nan)) for p in model.parameters()
    ]
    columns = {
        "weight_gradient_dot": [(w.double() * g.double()).sum() for w, g in weights],
        "weight_norm": [w.norm() for w, _ in weights],
        "loss_gradient_norm": [g.norm() for _, g in weights],
    }
    return {name: np.array([[float(v) for v in values]], dtype=np.float32) for name, values in columns.items()}


def look(model: nn.Module, shape: tuple[int, ...], rows: int = 12, bfloat16: bool = False) -> list[dict[str, Any]]:
    """What is said while the model trains, one row a block."""
    named = list(model.named_parameters())
    seen = ScaleInvariance(
        [n for n, _ in named], np.array([p.numel() for _, p in named]), np.array([p.ndim > 1 for _, p in named])
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    said = []
    for _ in range(rows):
        x = torch.randn(shape)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(model(x), torch.randint(0, 4, shape[:1]))
        optimizer.zero_grad()
        loss.backward()
        said.append(seen.see(block(model)))
        optimizer.step()
    return [one for one in said if one is not None]


def normed(width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4),
    )  # fmt: skip


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_also_behind_a_layer_that_begins_at_zero(zero: bool, bfloat16: bool) -> None:
    """Its gradient is 0 in the first row: eight rows with a gradient are waited for."""
    torch.manual_seed(0)
    model = normed()
    if zero:
        nn.init.zeros_(model[6].weight)
    said = look(model, (32, 8), bfloat16=bfloat16)
    assert said[-1]["parameters"] == {"0.weight": "alone", "3.weight": "alone"}
    if zero:  # nothing is claimed before
        assert said[0]["note"] == SO_FAR and set(said[0]["undecided"]) == {"0.weight", "3.weight", "6.weight"}
    assert len(said) == 1 + zero


@pytest.mark.parametrize("bfloat16", [False, True])
def test_in_a_residual_net(bfloat16: bool) -> None:
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4, zero_init_residual=True)
    said = look(model, (8, 3, 32, 32), rows=ROWS + 1, bfloat16=bfloat16)
    convolutions = {name for name, p in model.named_parameters() if p.ndim > 1} - {"fc.weight"}
    assert set(said[-1]["parameters"]) | set(said[-1].get("undecided", ())) == convolutions
    assert len(said[-1]["parameters"]) >= len(convolutions) - (2 if bfloat16 else 0)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_nets_without_a_norm_have_none(bfloat16: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    assert look(model, (32, 16), bfloat16=bfloat16) == [{"parameters": {}, "note": NONE}]


def test_between_the_limits_nothing_is_claimed() -> None:
    seen = ScaleInvariance(["a", "b"], np.array([100, 100]), np.array([True, True]))
    rows = np.array([[0.05 / 10, 0.5 / 10]] * ROWS, dtype=np.float32)
    found = seen.see({"weight_gradient_dot": rows, "weight_norm": rows * 0 + 1, "loss_gradient_norm": rows * 0 + 1})
    assert found is not None and found["note"] == SO_FAR
    assert found["parameters"] == {} and list(found["undecided"]) == ["a"]


def test_weights_that_never_get_a_gradient_stay_undecided() -> None:
    seen = ScaleInvariance(["a"], np.array([9]), np.array([True]))
    none = np.full((LONGEST // 2, 1), np.nan, dtype=np.float32)
    rows = {"weight_gradient_dot": none, "weight_norm": none * 0 + 1, "loss_gradient_norm": none}
    first, *later = [seen.see(rows) for _ in range(4)]
    assert first is not None and list(first["undecided"]) == ["a"] and later == [None] * 3
