"""The residual nets of He et al. 2015 (arXiv 1512.03385, section 4.2), of 6n + 2 layers, which the document takes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from gradscope.types import InputError


class Block(nn.Module):
    """Two 3 × 3 convolutions with batch normalisation, added to what they read.

    Where the shape changes the shortcut has no parameters: every other pixel, and zeros in the new channels (option A).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.stride, self.more = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        """[N, before, rows, columns] to [N, after, rows/stride, columns/stride]."""
        h = self.second_norm(self.second(relu(self.first_norm(self.first(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return relu(h + pad(x, (0, 0, 0, 0, 0, self.more)) if self.more else h + x)


def residual(layers: int, channels: int, classes: int, width: int = 16) -> nn.Sequential:
    """``layers`` = 6n + 2: one convolution, three stages of n blocks of ``width``, twice and four times as many
    channels, the mean over all places, one linear layer. He initialisation.

    Raises
    ------
    InputError
        If there is no such n.
    """
    n, rest = divmod(layers - 2, 6)
    if n < 1 or rest:
        raise InputError(f"layers is {layers}; expected 6n + 2, such as 14 or 32")
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    parts: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
    for before, after in pairwise([width, width, 2 * width, 4 * width]):
        parts.append(Block(before, after, stride=after // before))
        parts += [Block(after, after, stride=1) for _ in range(n - 1)]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(torch.as_tensor(model[-1].bias))
    return model
