"""Twins in float64: what a row has to hold, recomputed from the weights and the batches of its step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from tests.helpers.loops import convnet, mlp

Batch = tuple[Tensor, Tensor]
Row = dict[str, list[float]]


class TiedTransformer(nn.Module):
    """Two tokens' worth of attention over six positions; the embedding is the output layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x * 3 + 6).long().clamp(0, 11)
        return self.head(self.block(self.embedding(tokens)).mean(1))[:, :3]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(2, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cells(x.reshape(-1, 3, 2))
        return self.head(states[:, -1])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "transformer": TiedTransformer,
    "recurrent": Recurrent,
}


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)


def gradients(model: nn.Module, batches: Sequence[Batch]) -> list[Tensor | None]:
    """∂L/∂w of the mean loss of these micro-batches, in float64, on a copy that nobody watches."""
    twin = copy.deepcopy(model).double()
    twin.zero_grad()
    for batch in batches:
        (loss_of(twin, batch) / len(batches)).backward()
    return [p.grad for p in twin.parameters()]


def row(model: nn.Module, found: Sequence[Tensor | None], decay: float | Sequence[float] = 0.0) -> Row:
    """The parameter statistics of these weights and gradients, from their definitions; ``decay``: one, or one each."""
    values: Row = {}
    decays = [decay] * len(found) if isinstance(decay, float) else decay
    for w, g, of_w in zip(model.parameters(), found, decays, strict=True):
        w64 = w.detach().double()
        g64 = torch.full_like(w64, torch.nan) if g is None else g.double()
        r = of_w * w64
        one = {
            "loss_gradient_mean_abs": g64.abs().mean(), "loss_gradient_norm": g64.norm(),
            "loss_gradient_max_abs": g64.abs().max(), "penalty_gradient_mean_abs": r.abs().mean(),
            "proportion": g64.abs().mean() / (g64.abs().mean() + r.abs().mean()),
            "weight_mean_abs": w64.abs().mean(), "weight_norm": w64.norm(), "weight_max_abs": w64.abs().max(),
            "weight_zero_fraction": (w64 == 0).double().mean(), "weight_gradient_dot": (w64 * g64).sum(),
        }  # fmt: skip
        for name, value in one.items():
            values.setdefault(name, []).append(float(value))
    return values


def equal(dataset: xr.Dataset, rows: Sequence[Row | None], rtol: float = 1e-4, atol: float = 1e-7) -> None:
    """Every row but those that are None (of steps that overflowed, whose numbers are not finite)."""
    assert dataset.sizes["step"] == len(rows)
    kept = [i for i, one in enumerate(rows) if one is not None]
    for name in next(one for one in rows if one is not None):
        expected = np.array([one[name] for one in rows if one is not None])
        np.testing.assert_allclose(dataset[name].values[kept], expected, rtol=rtol, atol=atol, err_msg=name)


def micro_batches(steps: int, micro: int = 1, size: int = 5) -> Iterator[list[Batch]]:
    """The same random classification batches every time, ``micro`` a step."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        yield [
            (torch.randn(size, 6, generator=generator), torch.randint(0, 3, (size,), generator=generator))
            for _ in range(micro)
        ]
