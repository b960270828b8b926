"""Batches of the third edition, by the number of the step, and the loss of the best constant on each."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gradscope.demo.data import digits

BATCH = 64
Batch = tuple[Tensor, Tensor]
DIGITS, TEXT = cache(digits), Path(sysconfig.get_paths()["stdlib"], "argparse.py")


def images(step: int) -> Batch:
    """Digits with their classes."""
    data = DIGITS()
    at = torch.randint(0, len(data.x), (BATCH,))
    return data.x[at], data.y[at]


def itself(step: int) -> Batch:
    """Digits, to be put out again."""
    x, _ = images(step)
    return x, x


def same(step: int) -> Batch:
    """Always the same image, with the classes of others."""
    x, y = images(step)
    return DIGITS().x[:1].expand_as(x), y


def noise(step: int) -> Batch:
    """Inputs that tell nothing."""
    return torch.randn(BATCH, 64), images(step)[1]


def sums(step: int) -> Batch:
    """Addition modulo 23, two thirds of the table: what groks later is known by heart at first."""
    order = torch.randperm(529, generator=torch.Generator().manual_seed(0))[:350]
    at = order[torch.randint(0, 350, (256,))]
    a, b = at // 23, at % 23
    return torch.cat([F.one_hot(a, 23), F.one_hot(b, 23)], 1).float(), (a + b) % 23


@cache
def letters() -> Tensor:
    """Characters of Python's own library, rare ones as one."""
    return torch.tensor([min(max(ord(c) - 31, 0), 95) for c in TEXT.read_text(encoding="utf-8")[:60000]])


def text(step: int) -> Batch:
    """Thirty-two letters, and each one's successor."""
    ids = letters()
    at = torch.randint(0, len(ids) - 33, (16,))[:, None] + torch.arange(33)
    return ids[at][:, :-1], ids[at][:, 1:].flatten()


@cache
def few() -> Batch:
    """Sixty images."""
    data = DIGITS()
    return data.x[:60], data.y[:60]


def sixty(step: int) -> Batch:
    """Of the same few images, again and again."""
    x, y = few()
    at = torch.randint(0, len(x), (BATCH,))
    return x[at], y[at]


@cache
def drawn() -> Batch:
    """Images whose classes mean nothing."""
    data = DIGITS()
    return data.x[:256], data.y[torch.randperm(256, generator=torch.Generator().manual_seed(0))]


def by_heart(step: int) -> Batch:
    """What can only be known by heart."""
    x, y = drawn()
    at = torch.randint(0, len(x), (BATCH,))
    return x[at], y[at]


def entropy(classes: Tensor) -> float:
    """Of the frequencies of classes: the loss of the best constant."""
    share = torch.bincount(classes).double() / len(classes)
    return float(-(share[share > 0] * share[share > 0].log()).sum())


def best_constant(batch: Callable[[int], Batch]) -> float:
    """Loss of the best constant on such batches, from all of the data: no part of gradscope has a say in it."""
    if batch is itself:
        return float(DIGITS().x.var(0, correction=0).mean())
    order = torch.randperm(529, generator=torch.Generator().manual_seed(0))[:350]
    known: dict[Callable[[int], Batch], Tensor] = {
        text: letters()[1:],
        sums: (order // 23 + order % 23) % 23,
        sixty: few()[1],
        by_heart: drawn()[1],
    }
    return entropy(known.get(batch, DIGITS().y))
