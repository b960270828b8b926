"""Achieving Strong Regularization for Deep Neural Networks: penalties that come late."""

from __future__ import annotations

import functools

from analyses.common import images
from analyses.common.study import SCALES, Options, Part, Study
from analyses.strong_regularization import gpu, plot, tables
from analyses.strong_regularization.plan import PARTS, cells, protocol, setup
from analyses.strong_regularization.recording import compare
from analyses.strong_regularization.search import audited, search, suggest
from analyses.strong_regularization.training import train

#: What makes a row of these parts; of all others `train`.
MAKERS = {"tolerance": search, "suggested": suggest, "recording": compare}


def look(asked: Options) -> None:
    """The images. Raises `InputError` where nothing is planned."""
    how = protocol(setup(asked).main, asked)
    images.load(asked.dataset, how.size, how.channels, asked.data, how.images)


STUDY = Study(
    "strong_regularization",
    {
        **{name: Part(functools.partial(cells, name), MAKERS.get(name, train)) for name in PARTS},
        "audited": Part(audited, train),
        "card": Part(gpu.cells, train),
        "checks": Part(gpu.checks, gpu.check, "checks-{scale}.jsonl", here=True),
    },
    tables.tables, plot.drawings, look=look, datasets=("pairs", "cifar100"), seeds=3, usual=(*PARTS, "audited"),
    scales=(*SCALES[:2], *gpu.SCALES), options={"--net": {"default": "vgg16", "help": "of the part card"}},
)  # fmt: skip
