"""Activations."""

from __future__ import annotations

import pytest
import torch

from gradscope.recorder.activations import Activations, unit_axis


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
