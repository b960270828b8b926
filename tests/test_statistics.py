"""Every statistic against a slow exact twin in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gradscope.recorder import host_statistics
from gradscope.recorder.activations import Activations, unit_axis
from gradscope.recorder.statistics import QUANTITIES, foreach_table, parameter_table


def twin(w: Tensor, g: Tensor | None) -> dict[str, float]:
    w = w.detach().double()
    seen = {
        "weight_l1": w.abs().sum(), "weight_norm": (w * w).sum().sqrt(),
        "weight_max": w.abs().max() if w.numel() else torch.zeros(()), "weight_nonzero": (w != 0).sum(),
    }  # fmt: skip
    if g is not None:
        g = g.double()
        seen |= {
            "gradient_l1": g.abs().sum(), "gradient_norm": (g * g).sum().sqrt(),
            "gradient_max": g.abs().max() if g.numel() else torch.zeros(()),
            "gradient_nonfinite": (~g.isfinite()).sum(), "dot": (w * g).sum(),
        }  # fmt: skip
    return {name: float(value) for name, value in seen.items()}


def tensors(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor | None]]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(7, 5), (5,), (3, 2, 4, 4), (1,), (40, 30)]
    weights = [torch.randn(s, generator=generator).to(dtype) for s in shapes]
    weights[0][2] = 0.0
    return weights, [torch.randn(s, generator=generator).mul(1e-3).to(dtype) for s in shapes]


def compare(table: Tensor, weights: list[Tensor], gradients: list[Tensor | None]) -> None:
    for column, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        exact = twin(w, g)
        for row, name in enumerate(QUANTITIES):
            found = float(table[row, column])
            if name in exact:
                assert found == pytest.approx(exact[name], rel=2e-6, abs=1e-9, nan_ok=True), (name, column)
            else:
                assert np.isnan(found), (name, column)


@pytest.mark.parametrize("build", [foreach_table, parameter_table, host_statistics.parameter_table])
def test_table_equals_twin(build) -> None:
    weights, gradients = tensors()
    compare(build(weights, gradients, QUANTITIES), weights, gradients)


def test_both_ways_are_taken() -> None:
    weights, gradients = tensors()
    assert host_statistics.suits(weights, gradients)
    assert not host_statistics.suits([w.double() for w in weights], gradients)
    assert not host_statistics.suits(weights, [None, *gradients[1:]])
    large = torch.zeros(host_statistics.LARGEST + 1)
    assert not host_statistics.suits([large], [large])


def test_missing_gradient_is_nan_and_weights_are_there() -> None:
    weights, gradients = tensors()
    gradients[1] = None
    compare(parameter_table(weights, gradients, QUANTITIES), weights, gradients)
    none = [None] * len(weights)
    compare(parameter_table(weights, none, QUANTITIES), weights, none)


def test_empty_parameter_is_zero() -> None:
    weights, gradients = tensors()
    weights.append(torch.zeros(0, 3))
    gradients.append(torch.zeros(0, 3))
    compare(parameter_table(weights, gradients, QUANTITIES), weights, gradients)


def test_low_precision_is_summed_in_float32() -> None:
    weights, gradients = tensors(torch.bfloat16)
    compare(parameter_table(weights, gradients, QUANTITIES), weights, gradients)


@pytest.mark.parametrize("build", [foreach_table, host_statistics.parameter_table])
def test_nonfinite_entries_are_counted(build) -> None:
    weights, gradients = tensors()
    assert gradients[0] is not None
    gradients[0][0, 0], gradients[0][1, 1], gradients[0][2, 2] = float("nan"), float("inf"), -float("inf")
    table = build(weights, gradients, QUANTITIES)
    assert table[QUANTITIES.index("gradient_nonfinite")].tolist() == [3, 0, 0, 0, 0]
    assert not table[QUANTITIES.index("gradient_l1"), 0].isfinite()


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_activations_pool_micro_batches(pieces: int) -> None:
    """Pooled over forwards, the statistics are those of all samples at once, even where mean ≫ std."""
    layer = torch.nn.Linear(4, 6)
    x = torch.randn(12, 4) * 1e-3 + 5.0
    watch = Activations({"layer": layer}, gradients=False)
    for part in x.chunk(pieces):
        layer(part)
    mean, signal, zeros = watch.take(torch.device("cpu"))[:, 0].tolist()
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double()).detach()
    assert mean == pytest.approx(exact.abs().mean().item(), rel=1e-5)
    assert signal == pytest.approx(exact.var(0, correction=0).mean().sqrt().item(), rel=1e-2)
    assert zeros == 0.0


def test_activations_of_channels_and_of_evaluation() -> None:
    conv = torch.nn.Conv2d(1, 3, 2)
    watch = Activations({"conv": conv}, gradients=False)
    conv.eval()
    conv(torch.randn(2, 1, 4, 4))
    conv.train()
    with torch.no_grad():
        conv(torch.randn(2, 1, 4, 4))
    assert torch.isnan(watch.take(torch.device("cpu"))).all()
    out = conv(torch.randn(2, 1, 4, 4))
    assert unit_axis(conv, out) == 1
    signal = watch.take(torch.device("cpu"))[1, 0].item()
    assert signal == pytest.approx(out.detach().double().var((0, 2, 3), correction=0).mean().sqrt().item(), rel=1e-5)
    watch.detach()
    assert not conv._forward_hooks
