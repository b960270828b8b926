"""The document's Inception-like network (its section 3.10), and what may stand between its blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradscope.regularizers.strategies import GaussianNoise

#: Filters of the 1 × 1, 3 × 3 and 5 × 5 convolutions of a block, three blocks. The document gives none: these are those
#: of GoogLeNet's first block (Szegedy et al. 2014, table 1, inception 3a) without its 1 × 1 reductions.
FILTERS = (64, 128, 32)
BLOCKS = 3


class Inception(nn.Module):
    """Convolutions of three sizes with ReLU and a maximum over 3 × 3 side by side; the resolution stays.

    [N, channels, rows, columns] to [N, sum(filters) + channels, rows, columns].
    """

    def __init__(self, channels: int, filters: tuple[int, int, int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, count, size, padding=size // 2), nn.ReLU())
            for count, size in zip(filters, (1, 3, 5), strict=True)
        )
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The four results, concatenated by channel."""
        return torch.cat([*(path(x) for path in self.convolutions), self.pool(x)], dim=1)


class Whitening(nn.Module):
    """ZCA whitening as in Keras' ImageDataGenerator: x U (S + ε)^-1/2 Uᵀ of the second moments of the training images.

    Part of the network, so that an attack perturbs the image before it is whitened, as an attacker would.
    """

    matrix: Tensor

    def __init__(self, x: Tensor, epsilon: float = 1e-6) -> None:
        super().__init__()
        flat = x.flatten(1)
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        # Rounding can leave the zero eigenvalues of a set of few images slightly below 0.
        self.register_buffer("matrix", (vectors / (values.clamp_min(0) + epsilon).sqrt()) @ vectors.T)

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        return (x.flatten(1) @ self.matrix).view_as(x)


def network(
    shape: tuple[int, int, int],
    classes: int,
    filters: tuple[int, int, int] = FILTERS,
    *,
    dropout: float = 0.0,
    noise: float = 0.0,
    whitening: Whitening | None = None,
) -> nn.Sequential:
    """Three blocks, the mean over all places, a linear layer; Glorot initialisation and biases of 0, as Keras does.

    ``dropout`` and ``noise`` follow each block: the document does not say where they are, only that noise does most
    at hidden layers.
    """
    layers: list[nn.Module] = [] if whitening is None else [whitening]
    channels = shape[0]
    for _ in range(BLOCKS):
        layers.append(Inception(channels, filters))
        layers += [GaussianNoise(noise)] if noise else []
        layers += [nn.Dropout(dropout)] if dropout else []
        channels += sum(filters)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return model
