"""Small networks of every kind that the studies train, for images [N, rows, columns]."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """x + f(x): a residual block without normalisation."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        return x + torch.as_tensor(self.inner(x))


class Recurrent(nn.Module):
    """An RNN, GRU or LSTM that reads an image row by row; the last state is classified."""

    def __init__(self, cell: str, columns: int, layers: int, width: int, outputs: int) -> None:
        super().__init__()
        kinds: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        self.cells = kinds[cell](columns, width, num_layers=layers, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, rows, columns] to [N, outputs]."""
        return torch.as_tensor(self.head(self.cells(x)[0][:, -1]))


class Transformer(nn.Module):
    """An encoder whose tokens are the rows of the image; their mean is classified."""

    def __init__(self, rows: int, columns: int, width: int, layers: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(columns, width)
        self.place = nn.Parameter(0.1 * torch.randn(rows, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, rows, columns] to [N, outputs]."""
        h = self.embed(x) + self.place
        for block in self.blocks:
            h = block(h)
        return torch.as_tensor(self.head(h.mean(1)))


class Channel(nn.Module):
    """[N, rows, columns] to [N, 1, rows, columns]."""

    def forward(self, x: Tensor) -> Tensor:
        """One channel."""
        return x[:, None]


def mlp(shape: tuple[int, int], outputs: int, layers: int, width: int, dropout: float, norm: bool = False) -> nn.Module:
    """``layers`` weight layers with ReLU between them, batch-normalised if asked for."""
    parts: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([shape[0] * shape[1], *[width] * (layers - 1)]):
        parts += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
        parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def conv(
    shape: tuple[int, int], outputs: int, layers: int, width: int, dropout: float, norm: bool = False
) -> nn.Module:
    """3 × 3 convolutions with ReLU, the first with stride 2, and one linear layer."""
    parts: list[nn.Module] = [Channel()]
    for i, (before, after) in enumerate(pairwise([1, *[width] * (layers - 1)])):
        convolution = nn.Conv2d(before, after, 3, stride=1 if i else 2, padding=1)
        parts += [convolution, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]
    parts += [nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*parts, nn.Linear(width * shape[0] * shape[1] // 4, outputs))


def residual(shape: tuple[int, int], outputs: int, layers: int, width: int, dropout: float) -> nn.Module:
    """Blocks of two linear layers added to what they read, no normalisation; ``layers`` weight layers in all."""
    blocks = [
        Residual(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
        for _ in range((layers - 2) // 2)
    ]
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], width), *blocks, nn.Linear(width, outputs))


def network(
    kind: str, shape: tuple[int, int], outputs: int, layers: int = 4, width: int = 64, dropout: float = 0.0
) -> nn.Module:
    """``mlp``, ``conv``, ``residual``, ``batchnorm`` (an MLP), ``batchnorm-conv``, ``rnn``, ``gru``, ``lstm`` or
    ``transformer``.
    """
    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: mlp(shape, outputs, layers, width, dropout),
        "batchnorm": lambda: mlp(shape, outputs, layers, width, dropout, norm=True),
        "conv": lambda: conv(shape, outputs, layers, width, dropout),
        "batchnorm-conv": lambda: conv(shape, outputs, layers, width, dropout, norm=True),
        "residual": lambda: residual(shape, outputs, layers, width, dropout),
        "transformer": lambda: Transformer(*shape, width, layers, outputs, dropout),
    }
    if kind in makers:
        return makers[kind]()
    return Recurrent(kind, shape[1], layers, width, outputs)


def initialise(model: nn.Module, scale: float = 1.0) -> None:
    """He initialisation of linear and convolution layers with biases of 0; then every matrix times ``scale``.

    What a residual block adds is made smaller with their number, as it would otherwise grow with depth.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = [module for module in model.modules() if isinstance(module, Residual)]
    with torch.no_grad():
        for block in blocks:
            last = [m for m in block.inner if isinstance(m, nn.Linear)][-1]
            last.weight /= 2 * len(blocks)
    if scale != 1:
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.mul_(scale)
