"""The image sets of the studies: scikit-learn's digits, pairs of them, CIFAR and SVHN through torchvision or a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from analyses.common import archive
from analyses.common.tasks import pairs
from gradscope.demo.data import digits
from gradscope.types import InputError

EMBEDDED = ("digits", "pairs")
DOWNLOADED = ("cifar10", "cifar100", "svhn")
#: Training pairs; 50 a class, where CIFAR-100 has 500.
PAIRS = 5120


@dataclass(frozen=True)
class ImageSet:
    """Images [N, channels, rows, columns] in float32, standardised by channel over the training images; labels [N].

    ``flips``: whether a mirrored image keeps its label (it does not for numbers).
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    flips: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns."""
        channels, rows, columns = self.x.shape[1:]
        return channels, rows, columns

    def to(self, device: str) -> ImageSet:
        """The same set on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("x", "y", "x_test", "y_test")}
        return replace(self, **moved)


def few(data: ImageSet, count: int) -> tuple[ImageSet, Tensor, Tensor]:
    """The set with its first ``count`` training images only, and the images and labels that this leaves over."""
    return replace(data, x=data.x[:count], y=data.y[:count]), data.x[count:], data.y[count:]


def stratified(x: Tensor, y: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """The first ``count`` images, as many of each class, the classes taking turns; all of them where None.

    Any stretch of what is returned has its share of every class, but for the last images of unequal classes.

    Raises
    ------
    InputError
        When the classes do not have so many, or ``count`` is no multiple of their number.
    """
    rank = torch.empty_like(y)
    sizes = torch.bincount(y)
    for number, size in enumerate(sizes.tolist()):
        rank[y == number] = torch.arange(size)
    if count is not None:
        each, rest = divmod(count, len(sizes))
        if rest or not 0 < each <= int(sizes.min()):
            raise InputError(
                f"{count} images of {len(sizes)} classes with {int(sizes.min())} or more each; "
                f"expected a multiple of {len(sizes)} up to {len(sizes) * int(sizes.min())}"
            )
        x, y, rank = (values[rank < each] for values in (x, y, rank))
    turns = torch.argsort(rank * len(sizes) + y)
    return x[turns], y[turns]


@cache
def load(
    name: str, size: int = 32, channels: int = 3, folder: Path = Path("data"), count: int | None = None
) -> ImageSet:
    """A set by its name. ``digits`` and ``pairs`` are enlarged to ``size`` pixels and repeated over ``channels``.

    ``digits``: 1,437 training and 360 test images. ``pairs``: two digits side by side and the number that they
    read as, 100 classes, 5,120 training and 1,000 test pairs, made of disjoint digits. ``cifar10``, ``cifar100``
    and ``svhn`` are read from ``folder`` as torchvision keeps them; ``cifar10`` also from an archive of image files,
    which ``folder`` may name, or else the environment variable GRADSCOPE_CIFAR10. Of these, ``count`` training images
    are kept, as many of each class; all where None. Classes take turns in these, and in all images of an archive.

    Raises
    ------
    InputError
        For another name, or when the files of a downloaded set are not there.
    """
    if name in DOWNLOADED:
        x, y, x_test, y_test = _photographs(name, folder)
        x, y = (x, y) if count is None else stratified(x, y, count)
        return _standardised(name, x, y, x_test, y_test, classes=100 if name == "cifar100" else 10)
    if name not in EMBEDDED:
        raise InputError(f"dataset is {name!r}; expected one of {', '.join((*EMBEDDED, *DOWNLOADED))}")
    data = digits()
    if name == "digits":
        sides = (data.x.view(-1, 8, 8), data.y), (data.x_validation.view(-1, 8, 8), data.y_validation)
    else:
        sides = pairs(data.x, data.y, PAIRS, seed=1), pairs(data.x_validation, data.y_validation, 1000, seed=2)
    (x, y), (x_test, y_test) = ((_enlarged(images, size, channels), labels) for images, labels in sides)
    return _standardised(name, x, y, x_test, y_test, classes=100 if name == "pairs" else 10)


def _enlarged(images: Tensor, size: int, channels: int) -> Tensor:
    larger = images[:, None]
    if images.shape[1:] != (size, size):
        larger = interpolate(larger, (size, size), mode="bilinear", align_corners=False)
    return larger.expand(-1, channels, -1, -1).contiguous()


def _photographs(name: str, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in uint8 [N, channels, rows, columns] and labels, for training and for testing."""
    packed = folder if folder.is_file() else os.environ.get(archive.VARIABLE)
    if name == "cifar10" and packed:
        x, y, x_test, y_test = (torch.from_numpy(values) for values in archive.decoded(Path(packed)))
        return *stratified(x, y), *stratified(x_test, y_test)
    return _downloaded(name, folder)


def _downloaded(name: str, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from torchvision import datasets

    makers: dict[str, Callable[..., Any]] = {
        "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "svhn": datasets.SVHN,
    }  # fmt: skip
    parts: list[Tensor] = []
    for train in (True, False):
        which = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
        try:
            found = makers[name](folder, **which)
        except RuntimeError as error:
            kind = makers[name].__name__
            raise InputError(
                f"{name} is not in {folder} ({str(error).splitlines()[0]}); get it on a machine with a network by "
                f'python -c "from torchvision.datasets import {kind} as d; '
                + (f"d('{folder}', 'train', download=True); d('{folder}', 'test', download=True)\"" if name == "svhn"
                   else f"d('{folder}', download=True)\"")
                + (f", or name an archive of its images by --data or {archive.VARIABLE}" if name == "cifar10" else "")
            ) from error  # fmt: skip
        if name == "svhn":  # [N, C, H, W] already
            images, labels = found.data, found.labels
        else:
            images, labels = np.moveaxis(found.data, -1, 1), found.targets
        parts += [torch.tensor(np.asarray(images)), torch.as_tensor(np.asarray(labels)).long()]
    x, y, x_test, y_test = parts
    return x, y, x_test, y_test


def _standardised(name: str, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int) -> ImageSet:
    if x.dtype == torch.uint8:
        x, x_test = x / 255, x_test / 255
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    flips = name in ("cifar10", "cifar100")
    return ImageSet(name, (x - mean) / std, y, (x_test - mean) / std, y_test, classes, flips)
