"""The ways to train that the reader learns from: drawn once, the same each time, family by family."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analyses.failure_detection.families import CONFIGURATIONS

#: Steps of a run that learns or fails, by which a level is defined here.
HORIZON = 400
#: What the names of levels begin with that come from `analyses.tolerance_search`.
SEARCHED = "searched-"


@dataclass(frozen=True)
class Configuration:
    """One way to train.

    ``optimizer``: ``sgd`` (momentum .9), ``plain`` (without), ``nesterov``, ``adam`` (L2 coupled) or ``adamw``.
    ``decay``: of the learning rate over the run, ``none``, ``cosine``, ``step`` (a tenth at half) or ``warm-up``.
    """

    number: int
    family: str
    kind: str
    task: str
    layers: int
    width: int
    optimizer: str
    penalty: str
    lr: float
    batch: int
    decay: str = "none"
    activation: str = "relu"
    init: float = 1.0
    dropout: float = 0.0

    @property
    def key(self) -> str:
        """A name that tells it from every other."""
        return f"{self.number:03d}-{self.family}-{self.kind}-{self.layers}x{self.width}-{self.optimizer}-{self.penalty}"

    @property
    def momentum(self) -> float:
        """Of the optimizer; 0 for those that have none."""
        return 0.9 if self.optimizer in ("sgd", "nesterov") else 0.0

    @property
    def group(self) -> str:
        """What has a reader of its own: ``direct`` (SGD and AdamW), ``coupled`` (Adam) or ``l1``."""
        return "l1" if self.penalty == "l1" else "coupled" if self.optimizer == "adam" else "direct"


@dataclass(frozen=True)
class Family:
    """What a family is drawn from. ``rate``: the learning rates of SGD with momentum, the range's ends.

    ``adaptive``: the same for Adam and AdamW.
    """

    name: str
    kinds: tuple[str, ...]
    tasks: tuple[str, ...]
    layers: tuple[int, int]
    widths: tuple[int, ...]
    rate: tuple[float, float]
    adaptive: tuple[float, float] = (5e-4, 3e-3)
    activations: tuple[str, ...] = ("relu",)
    count: int = 16
    batches: tuple[int, ...] = (16, 16, 32, 32, 64, 128, 512)


FAMILIES = (
    Family("mlp-shallow", ("mlp",), ("digits",), (3, 6), (32, 48, 64, 96), (0.008, 0.08), count=24),
    Family("mlp-deep", ("mlp",), ("digits",), (7, 14), (32, 48, 64), (0.006, 0.04), count=24),
    Family("mlp-pairs", ("mlp",), ("pairs",), (3, 8), (48, 64, 96, 128), (0.01, 0.06), count=20),
    Family("tables", ("mlp",), ("wine", "cancer"), (2, 9), (16, 32, 64), (0.005, 0.06), count=20,
           batches=(16, 32, 64)),
    Family("conv", ("conv",), ("digits", "pairs"), (3, 6), (6, 8, 12), (0.01, 0.06), count=20, batches=(16, 32)),
    Family("residual", ("residual",), ("digits", "pairs"), (4, 12), (32, 48, 64), (0.005, 0.04)),
    Family("recurrent", ("rnn", "rnn", "gru", "lstm"), ("digits",), (1, 2), (16, 24, 32), (0.04, 0.2),
           (1e-3, 6e-3), batches=(16, 32)),
    Family("transformer", ("transformer",), ("digits",), (1, 2), (16, 24, 32), (0.02, 0.1), (8e-4, 4e-3),
           batches=(16, 32)),
    Family("text", ("text",), ("text",), (1, 2), (24, 32), (0.05, 0.4), (1e-3, 5e-3), batches=(8, 16)),
    Family("regression", ("mlp", "mlp", "conv"), ("sums",), (3, 8), (8, 16, 32), (0.005, 0.03), batches=(16, 32)),
    Family("images", ("conv", "vgg", "mlp"), ("cifar",), (3, 6), (6, 8), (0.01, 0.05), (5e-4, 2e-3),
           batches=(16, 32)),
    Family("smooth", ("mlp",), ("digits", "pairs"), (3, 9), (32, 48, 64), (0.01, 0.08),
           activations=("tanh", "gelu", "silu", "leaky"), count=20),
    Family("wide", ("mlp",), ("digits",), (3, 5), (256, 256, 384, 512, 1024), (0.005, 0.04), (1e-4, 1e-3),
           count=14, batches=(16,)),
    Family("normalised", ("batchnorm", "batchnorm-conv", "layernorm"), ("digits",), (4, 7), (8, 12, 16),
            (0.01, 0.06), count=12, batches=(16, 32)),
)  # fmt: skip

#: How often each optimizer and penalty is drawn. The shares of Adam and of L1 are enough for readers of their own.
OPTIMIZERS = (
    ("sgd", "l2", 0.42), ("nesterov", "l2", 0.05), ("plain", "l2", 0.13), ("adamw", "l2", 0.20), ("adam", "l2", 0.11),
    ("sgd", "l1", 0.09),
)  # fmt: skip
DECAYS = (("none", 0.7), ("cosine", 0.15), ("step", 0.08), ("warm-up", 0.07))


def benchmark() -> dict[Configuration, str]:
    """Those whose levels other studies tell, with the names that they go by there.

    Those of the benchmark of learning failures, and the depths of `analyses.tolerance_search` (He, digits, 64 wide).
    """
    found = {}
    for number, layers in enumerate((6, 8, 10, 12)):
        family = "mlp-shallow" if layers == 6 else "mlp-deep"
        c = Configuration(890 + number, family, "mlp", "digits", layers, 64, "sgd", "l2", 0.03, 64)
        found[c] = f"{SEARCHED}{layers}"
    for number, theirs in enumerate(CONFIGURATIONS):
        family = "normalised" if theirs.family == "batchnorm" else theirs.family
        c = Configuration(
            900 + number, family, theirs.kind, theirs.task, theirs.layers, theirs.width, theirs.optimizer,
            theirs.penalty, theirs.lr, theirs.batch,
        )  # fmt: skip
        found[c] = theirs.key
    return found


def configurations() -> list[Configuration]:
    """All that are drawn, family after family."""
    found: list[Configuration] = []
    for index, family in enumerate(FAMILIES):
        random = np.random.default_rng([22, index])
        for _ in range(family.count):
            found.append(_drawn(len(found), family, random))
    return found


def _drawn(number: int, family: Family, random: np.random.Generator) -> Configuration:
    optimizer, penalty, _ = OPTIMIZERS[int(random.choice(len(OPTIMIZERS), p=[share for *_, share in OPTIMIZERS]))]
    decay = DECAYS[int(random.choice(len(DECAYS), p=[share for _, share in DECAYS]))][0]
    kind, task, activation = (str(random.choice(names)) for names in (family.kinds, family.tasks, family.activations))
    layers = int(random.integers(family.layers[0], family.layers[1] + 1))
    low, high = family.adaptive if optimizer.startswith("adam") else family.rate
    lr = float(math.exp(random.uniform(math.log(low), math.log(high))))
    if optimizer == "plain":
        lr *= 5  # what momentum would make of a step, and a little less
    init = float(random.choice([0.8, 1.0, 1.0, 1.0, 1.2]))
    dropout = float(random.choice([0.0, 0.0, 0.0, 0.0, 0.2]))
    return Configuration(
        number, family.name, kind, task, layers, int(random.choice(family.widths)), optimizer, penalty,
        float(f"{lr:.3g}"), int(random.choice(family.batches)), decay, activation, init, dropout,
    )  # fmt: skip
