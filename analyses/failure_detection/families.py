"""The families of the benchmark, four configurations each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    """One way to train; ``low``/``high``: where the tolerance level is searched, in strengths λ.

    ``optimizer``: ``sgd`` (momentum .9), ``plain`` (without), ``adam`` (L2 coupled) or ``adamw`` (decoupled).
    """

    family: str
    kind: str
    task: str
    layers: int
    width: int
    optimizer: str
    penalty: str
    lr: float
    low: float
    high: float
    batch: int = 64
    steps: int = 400
    he: bool = True

    @property
    def key(self) -> str:
        """A name that tells it from every other."""
        return f"{self.family}/{self.kind}-{self.layers}x{self.width}-{self.optimizer}-{self.penalty}-{self.lr:g}"


def family(name: str, task: str, *rows: tuple[str, int, int, str, str, float, float, float]) -> list[Configuration]:
    """Configurations that share a name and a task: (kind, layers, width, optimizer, penalty, lr, low, high) each."""
    he = name not in ("recurrent", "transformer")  # He initialisation is for ReLU
    batch = 64 if name.startswith(("mlp", "residual", "regression")) else 32
    return [Configuration(name, row[0], task, *row[1:], he=he, batch=batch) for row in rows]


CONFIGURATIONS = [
    *family(
        "mlp-shallow", "digits",
        ("mlp", 4, 64, "sgd", "l2", 0.03, 0.01, 1),
        ("mlp", 6, 64, "sgd", "l2", 0.02, 0.005, 0.5),
        ("mlp", 5, 64, "sgd", "l1", 0.03, 1e-3, 1),
        ("mlp", 4, 64, "adamw", "l2", 1e-3, 0.5, 500),
    ),
    *family(
        "mlp-deep", "digits",
        ("mlp", 8, 64, "sgd", "l2", 0.03, 0.003, 0.3),
        ("mlp", 12, 64, "sgd", "l2", 0.02, 0.003, 0.3),
        ("mlp", 16, 48, "sgd", "l2", 0.02, 0.003, 0.3),
        ("mlp", 10, 64, "adam", "l2", 5e-4, 1e-5, 0.1),
    ),
    *family(
        "mlp-pairs", "pairs",
        ("mlp", 6, 96, "sgd", "l2", 0.05, 5e-4, 0.2),
        ("mlp", 8, 96, "sgd", "l2", 0.03, 5e-4, 0.2),
        ("mlp", 5, 96, "sgd", "l1", 0.05, 1e-4, 0.1),
        ("mlp", 6, 96, "adamw", "l2", 1e-3, 0.5, 500),
    ),
    *family(
        "conv", "digits",
        ("conv", 5, 12, "sgd", "l2", 0.03, 0.003, 1),
        ("conv", 7, 12, "sgd", "l2", 0.02, 0.003, 1),
        ("conv", 4, 12, "sgd", "l1", 0.03, 1e-3, 1),
        ("conv", 5, 12, "adamw", "l2", 2e-3, 0.5, 500),
    ),
    *family(
        "residual", "digits",
        ("residual", 8, 64, "sgd", "l2", 0.02, 0.01, 3),
        ("residual", 14, 48, "sgd", "l2", 0.01, 0.01, 3),
        ("residual", 8, 64, "plain", "l2", 0.1, 0.01, 3),
        ("residual", 8, 64, "adamw", "l2", 1e-3, 0.5, 1000),
    ),
    *family(
        "batchnorm", "digits",
        ("batchnorm", 6, 64, "sgd", "l2", 0.03, 0.01, 10),
        ("batchnorm-conv", 4, 12, "sgd", "l2", 0.03, 0.01, 10),
        ("batchnorm", 5, 64, "sgd", "l1", 0.03, 1e-3, 3),
        ("batchnorm", 8, 64, "adamw", "l2", 1e-3, 0.5, 1000),
    ),
    *family(
        "recurrent", "digits",
        ("rnn", 2, 48, "sgd", "l2", 0.05, 1e-3, 1),
        ("gru", 1, 32, "sgd", "l2", 0.1, 1e-4, 0.1),
        ("rnn", 1, 48, "adam", "l2", 1e-3, 1e-5, 0.1),
        ("lstm", 1, 32, "adamw", "l2", 3e-3, 0.3, 300),
    ),
    *family(
        "transformer", "digits",
        ("transformer", 2, 32, "sgd", "l2", 0.05, 1e-3, 1),
        ("transformer", 2, 32, "sgd", "l1", 0.05, 1e-4, 0.3),
        ("transformer", 2, 32, "adam", "l2", 1e-3, 1e-5, 1),
        ("transformer", 2, 32, "adamw", "l2", 1e-3, 0.5, 1000),
    ),
    *family(
        "regression", "sums",
        ("mlp", 4, 64, "sgd", "l2", 0.02, 0.003, 1),
        ("mlp", 8, 64, "sgd", "l2", 0.02, 0.001, 0.5),
        ("mlp", 5, 64, "sgd", "l1", 0.02, 1e-4, 0.3),
        ("conv", 4, 12, "adamw", "l2", 2e-3, 0.5, 500),
    ),
]  # fmt: skip

FAMILIES = list(dict.fromkeys(c.family for c in CONFIGURATIONS))
