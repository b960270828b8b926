"""One training of the study: its curve, and what it came to."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradscope
from analyses.common import images
from analyses.common.loop import answers, crops, epochs
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.learning_rate_taper.networks import residual
from analyses.learning_rate_taper.protocol import LONG, LONGER, PAPER, SETTINGS, SMALL, Protocol, attach, sgd
from gradscope.types import InputError


@cache
def prepared(asked: Options) -> tuple[images.ImageSet, Tensor, Tensor]:
    """The set, and further test images for the ends of the phases (none at paper scale)."""
    how = protocol(asked)
    data = images.load(asked.dataset, how.size, how.channels, asked.data).to(asked.device)
    data, more_x, more_y = images.few(data, how.few or len(data.x))
    if data.classes > 10:  # pairs left over are made of the digits of the training pairs: no test images
        more_x, more_y = more_x[:0], more_y[:0]
    return data, torch.cat([data.x_test, more_x]), torch.cat([data.y_test, more_y])


def protocol(asked: Options) -> Protocol:
    """The document's, or the small one of a set. Raises `InputError` for a set that has none."""
    if asked.paper:
        return PAPER
    if asked.dataset not in SMALL:
        raise InputError(f"at small scale the sets are {', '.join(SMALL)}; --dataset is {asked.dataset}")
    return SMALL[asked.dataset]


def train(cell: Cell, asked: Options) -> Row:
    """One training: its curve, what it came to at the end of each phase, and gradscope's verdict."""
    how = LONGER if cell["reading"] == LONG else protocol(asked)
    data, test_x, test_y = prepared(asked)
    torch.manual_seed(cell["seed"])
    model = residual(cell["layers"], data.shape[0], data.classes, how.width).to(asked.device)
    optimizer, scheduler = sgd(model, how)
    attach(optimizer, SETTINGS[cell["setting"]], cell["reading"], how, cell["seed"])
    horizon = how.ends[-1] * -(-len(data.x) // how.batch)
    curve, ends = [], []
    with TemporaryDirectory() as folder:
        path = Path(folder, "run.h5")
        with gradscope.record(model, optimizer, path, preset="cheap", on_failure="ignore", horizon=horizon) as run:
            augment = crops(how.crops, data.flips) if how.crops else None
            for epoch in epochs(model, optimizer, data, how.ends[-1], how.batch, run=run, augment=augment):
                curve.append([round(v, 4) for v in (epoch.loss, epoch.test_loss, 1 - epoch.test_accuracy)])
                scheduler.step()
                if epoch.number + 1 in how.ends:
                    ends.append(measure(model, test_x, test_y))
        diagnosis = run.verdict.as_dict()
    kept = {name: diagnosis[name] for name in ("verdict", "failed", "decided_step")}
    return {"ends": ends, "curve": curve, "diagnosis": kept}


def measure(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean loss (nats, without penalty) and share of errors on test images."""
    outputs = answers(model, x)
    wrong = float((outputs.argmax(1) != y).float().mean())
    return {"loss": round(float(cross_entropy(outputs, y)), 5), "error": round(wrong, 5)}
