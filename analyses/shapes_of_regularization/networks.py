"""Perceptrons without biases: one hidden layer, or seven layers of weights, as the document's experiments 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

#: Images that the notebook shuffles, with the seed that it begins with.
IMAGES, FIRST_SEED = 1797, 1337
#: Settings of experiment 1 in the notebook's order (the last two are ours), three draws of weights each.
IN_ORDER = ("none", "l0", "l1", "l2", "l3", "linf", "dropout")
SEEDS = (13, 1337, 42)


@dataclass(frozen=True)
class Shape:
    """``layers``: matrices of weights; ``width``: of every hidden layer."""

    width: int
    layers: int

    def sizes(self, inputs: int = 64, classes: int = 10) -> list[tuple[int, int]]:
        """Inputs and outputs of each matrix."""
        return list(pairwise([inputs, *[self.width] * (self.layers - 1), classes]))

    def weights(self, inputs: int = 64, classes: int = 10) -> int:
        """How many there are; all of them are penalised, for there are no biases."""
        return sum(before * after for before, after in self.sizes(inputs, classes))


#: 18,944, 7,488, 2,464 and 346,624 weights: seven layers are seven matrices, so six hidden layers.
NETS = {"shallow": Shape(256, 2), "deep-32": Shape(32, 7), "deep-16": Shape(16, 7), "deep-256": Shape(256, 7)}


class Arctan(nn.Module):
    """The notebook's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.arctan(x)


def network(
    shape: Shape,
    hidden: type[nn.Module] = nn.ReLU,
    *,
    inputs: int = 64,
    classes: int = 10,
    dropout: float = 0.0,
    on_outputs: bool = False,
) -> nn.Sequential:
    """Images [N, …] of ``inputs`` pixels to scores [N, classes]. ``on_outputs``: dropout acts on the scores too."""
    parts: list[nn.Module] = [nn.Flatten()]
    for number, (before, after) in enumerate(shape.sizes(inputs, classes), 1):
        last = number == shape.layers
        parts.append(nn.Linear(before, after, bias=False))
        if dropout and (on_outputs or not last):
            parts.append(nn.Dropout(dropout))
        if not last:
            parts.append(hidden())
    return nn.Sequential(*parts)


def he(model: nn.Module) -> None:
    """He initialisation, normal."""
    for weight in model.parameters():
        nn.init.kaiming_normal_(weight, nonlinearity="relu")


class DrawnDropout(nn.Module):
    """The notebook's dropout, whose masks come from the generator that has drawn the weights."""

    def __init__(self, rate: float, generator: np.random.RandomState) -> None:
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if not self.training:
            return x
        kept = torch.from_numpy(self.generator.random_sample(tuple(x.shape)) > self.rate)
        return x * kept.to(x.device) / (1 - self.rate)


@torch.no_grad()
def as_published(model: nn.Sequential, net: str, penalty: str, seed: int, *, masks: bool = True) -> None:
    """The very weights that the notebook starts from: normal, of standard deviation 1/√(inputs · outputs).

    Experiment 2 seeds every run, and leaves its last layer at standard deviation 1. Experiment 1 never seeds: its
    weights follow from those drawn before, in the order of the notebook. ``masks``: dropout draws its own as well.
    """
    sizes = NETS[net].sizes()
    if net == "shallow":
        generator = np.random.RandomState(FIRST_SEED)
        generator.shuffle(np.arange(IMAGES))
        before = 3 * IN_ORDER.index(penalty) + SEEDS.index(seed)
        drawn = [(64, 128), (128, 10), *sizes * before]
        for size in drawn:
            generator.randn(*size)
    else:
        generator = np.random.RandomState(seed)
    for number, (weight, size) in enumerate(zip(model.parameters(), sizes, strict=True), 1):
        scale = 1.0 if net != "shallow" and number == len(sizes) else (size[0] * size[1]) ** -0.5
        weight.copy_(torch.from_numpy(generator.randn(*size) * scale).T)
    for place, part in enumerate(model):
        if masks and isinstance(part, nn.Dropout):
            model[place] = DrawnDropout(part.p, generator)
