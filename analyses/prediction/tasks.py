"""The real data of the configurations: digits and what is made of them, tables, text, small photographs."""

from __future__ import annotations

import os
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import Tensor
from torch.nn.functional import cross_entropy

from analyses.common import archive
from analyses.common import tasks as common
from analyses.common.tasks import Task
from gradscope.types import InputError

#: Characters that a text model reads at once, and modules of the standard library that it reads from.
CONTEXT = 16
SOURCES = ("argparse", "ast", "difflib", "dis", "doctest", "functools", "inspect", "pdb", "pickle", "tarfile", "typing")
#: Photographs a class, in half their resolution, which is enough for a few hundred steps.
PHOTOGRAPHS = 300


class Text(Task):
    """Characters [N, CONTEXT] and the ones after them; the loss is over all positions."""

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of [N, CONTEXT, classes]."""
        return cross_entropy(output.flatten(0, 1), y.flatten())

    @property
    def baseline(self) -> float:
        """The entropy of single characters."""
        share = torch.bincount(self.y.flatten(), minlength=self.classes) / self.y.numel()
        return float(-(share * share.clamp_min(1e-12).log()).sum())


@cache
def task(name: str) -> Task:
    """``digits``, ``pairs``, ``sums``, ``wine``, ``cancer``, ``text`` or ``cifar``, always the same data."""
    if name in ("digits", "pairs", "sums"):
        return common.task(name)
    if name == "text":
        return _text()
    return _photographs() if name == "cifar" else _table(name)


def _table(name: str) -> Task:
    """Standardised columns as images of one row."""
    features, labels = (load_wine if name == "wine" else load_breast_cancer)(return_X_y=True)
    x = torch.tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)[:, None]
    y = torch.tensor(labels, dtype=torch.int64)
    return Task(x, y, x[:0], y[:0], int(y.max()) + 1)


def _text() -> Task:
    """Python's own sources, without what is not ASCII."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES)
    codes = np.frombuffer(text.encode("ascii", "ignore"), dtype=np.uint8)
    known, numbers = np.unique(codes, return_inverse=True)
    count = (len(numbers) - 1) // CONTEXT
    x = torch.from_numpy(numbers[: count * CONTEXT].reshape(count, CONTEXT).astype(np.int64))
    y = torch.from_numpy(numbers[1 : count * CONTEXT + 1].reshape(count, CONTEXT).astype(np.int64))
    return Text(x, y, x[:0], y[:0], len(known))


def _photographs() -> Task:
    """[N, 3, 16, 16], each colour standardised."""
    if not (named := os.environ.get(archive.VARIABLE)):
        raise InputError(f"{archive.VARIABLE} is not set; expected the path of an archive of CIFAR-10's images")
    x, y, _, _ = archive.decoded(Path(named))
    chosen = np.concatenate([np.flatnonzero(y == kind)[:PHOTOGRAPHS] for kind in range(10)])
    images = torch.from_numpy(x[chosen].astype(np.float32))
    images = torch.nn.functional.avg_pool2d(images, 2)
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    labels = torch.from_numpy(y[chosen].astype(np.int64))
    return Task(images, labels, images[:0], labels[:0], 10)
