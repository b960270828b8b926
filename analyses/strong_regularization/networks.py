"""The document's AlexNet and VGG nets, made of torchvision's by its section 3, at any width, and deep MLPs beside them.

The text changes four things: AlexNet's pooling windows from 3 to 2 (their stride stays 2), the padding of its first
convolution from 2 to 5, all hidden fully connected layers to 256 (AlexNet) and 512 (VGG) neurons, and the outputs. Its
Table 1 (2.6 M; 15.2 M and 15.3 M; 9.8 M and 20.6 M) holds only if nothing is pooled to a fixed size before the first
fully connected layer, which then reads 256 or 512 numbers, the single pixel that a 32 × 32 image has become: the
torchvision of 2017 had no adaptive pooling. With today's (6 × 6 and 7 × 7) AlexNet would have 4.9 M and VGG-16 27.8 M.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torchvision import models

from analyses.common.networks import initialise, mlp

#: Neurons of a hidden fully connected layer.
HIDDEN = {"alexnet": 256, "vgg11": 512, "vgg16": 512, "vgg19": 512}


def build(name: str, shape: tuple[int, int, int], classes: int, width: float = 1.0, dropout: float = 0.5) -> nn.Module:
    """``alexnet``, ``vgg11``, ``vgg16``, ``vgg19``, or ``mlp10`` (ten weight layers of 64), He-initialised, biases 0.

    ``shape``: channels, rows, columns of an image. ``width``: of every layer, as a share of the document's. Images
    smaller than 32 × 32 leave out poolings, the last but one first, so that the last convolutions read 2 × 2 as they do
    at 32: over a single pixel eight ninths of their weights would never matter.
    """
    if name.startswith("mlp"):
        model: nn.Module = mlp((shape[0] * shape[1], shape[2]), classes, int(name[3:]), round(64 * width), dropout=0)
    else:
        with torch.device("meta"):  # only to read its layers: its own weights would fill 0.5 GB
            published = models.get_model(name, weights=None)
        if name == "alexnet":
            published.features[0].padding = (5, 5)
        features = nn.Sequential(*_features(published.features, shape, width))
        last = [part for part in features if isinstance(part, nn.Conv2d)][-1].out_channels
        head = _head(name, last, round(HIDDEN[name] * width), classes, dropout)
        model = nn.Sequential(features, nn.Flatten(), *head)
    initialise(model)
    return model


def _features(published: nn.Sequential, shape: tuple[int, int, int], width: float) -> Iterator[nn.Module]:
    channels, left_out = shape[0], round(math.log2(32 / shape[1]))
    poolings = [k for k, part in enumerate(published) if isinstance(part, nn.MaxPool2d)]
    kept = {*poolings[: len(poolings) - 1 - left_out], poolings[-1]}
    for k, part in enumerate(published):
        if isinstance(part, nn.Conv2d):
            out = max(1, round(part.out_channels * width))
            yield nn.Conv2d(channels, out, part.kernel_size, part.stride, part.padding)  # type: ignore[arg-type]
            channels = out
        elif isinstance(part, nn.ReLU):
            yield nn.ReLU()
        elif k in kept:
            yield nn.MaxPool2d(2, 2)


def _head(name: str, inputs: int, hidden: int, classes: int, dropout: float) -> list[nn.Module]:
    """Dropout stands before AlexNet's two hidden layers, and behind those of VGG, as in torchvision."""
    parts: list[nn.Module] = []
    for before in (inputs, hidden):
        layer = [nn.Linear(before, hidden), nn.ReLU()]
        parts += [nn.Dropout(dropout), *layer] if name == "alexnet" else [*layer, nn.Dropout(dropout)]
    return [*parts, nn.Linear(hidden, classes)]


def count(model: nn.Module) -> int:
    """All parameters, biases too, as Table 1 counts them."""
    return sum(p.numel() for p in model.parameters())


def zeros(model: nn.Module) -> float:
    """The share of all parameters that are exactly 0: the document's sparsity."""
    return sum(int((p == 0).sum()) for p in model.parameters()) / count(model)
