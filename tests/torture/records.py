"""Small real records for the fuzz: a finished one, and one with its log beside it."""

from __future__ import annotations

from pathlib import Path

import torch

import gradscope
from tests.helpers.loops import mlp, train

#: A record and its log.
Crashed = tuple[bytes, bytes]


def good_and_crashed(folder: Path) -> tuple[Path, Crashed]:
    """A finished record, and record and log as a killed process leaves them."""
    good, crashed = folder / "good.h5", folder / "crashed.h5"
    for path in (good, crashed):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.02)
        with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
            train(model, optimizer, 150, run)
            run.epoch(0, accuracy=0.5)
            run._recorder.fetch(open_row=True)
            run._notes.writer.flush()
            left = path.read_bytes(), path.with_name(path.name + ".log").read_bytes()
    return good, left
