"""The histograms in fixed bins against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gradscope.recorder.kernels import magnitude_bins
from gradscope.recorder.kernels.magnitude_bins import COLUMNS, HISTOGRAM_EDGES, histogram


def twin(tensor: Tensor) -> list[int]:
    x = tensor.detach().to_dense().abs().double().numpy().ravel()
    x = x[~np.isnan(x)]
    counts, _ = np.histogram(x[x > 0], [0.0, *HISTOGRAM_EDGES, np.inf])
    return [int((x == 0).sum()), *counts.tolist()]


def make(*tensors: Tensor | None) -> Tensor:
    out = torch.full((len(tensors), COLUMNS), -1.0)
    histogram(tensors, out)
    return out


def magnitudes() -> Tensor:
    """All magnitudes of float32, every edge and its neighbours, and what is no number."""
    edges = torch.tensor(HISTOGRAM_EDGES, dtype=torch.float32)
    few = torch.tensor([0.0, -0.0, 1e-42, float("inf"), -float("inf"), float("nan"), 3e38])
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(5000, generator=generator) * torch.rand(5000, generator=generator).mul(40).sub(25).exp2()
    near = (edges.nextafter(edges * 0), edges, -edges.nextafter(edges * 9))
    return torch.cat((few, spread, *near))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_equals_numpy(dtype: torch.dtype) -> None:
    x = magnitudes().to(dtype)
    counts = make(x)
    assert counts[0].tolist() == twin(x)
    assert counts.sum() == x.numel() - x.isnan().sum()


def test_both_ways_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = magnitudes()
    host = make(x)
    monkeypatch.setattr(magnitude_bins, "_kernel", lambda: None)  # as without numba
    monkeypatch.setattr(magnitude_bins, "_PIECE", 1000)
    assert torch.equal(make(x), host)


def test_layouts_and_what_is_not_there() -> None:
    x = torch.randn(6, 4)
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.ones(2, 4), (6, 4), check_invariants=True)
    found = make(x.t(), x[:, ::2], sparse, torch.zeros(0), None)
    assert [row.tolist() for row in found[:4]] == [twin(x), twin(x[:, ::2]), twin(sparse), [0.0] * COLUMNS]
    assert found[4].isnan().all()


def test_the_bins_are_what_is_said() -> None:
    assert (HISTOGRAM_EDGES[1:] / HISTOGRAM_EDGES[:-1] == 4).all()
    assert len(HISTOGRAM_EDGES) == COLUMNS - 2 == 26
    one = make(torch.tensor([1.0]))[0]
    column = int(one.argmax())
    assert HISTOGRAM_EDGES[column - 2] <= 1.0 < HISTOGRAM_EDGES[column - 1]
