"""A loop of Accelerate: the record holds what a plain loop of the same steps holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from tests.helpers.loops import mlp

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:accelerate"),
    pytest.mark.filterwarnings("ignore::FutureWarning:accelerate"),
]

STEPS, HALVES = 12, 2


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(16, 6), torch.randint(0, 3, (16,))) for _ in range(STEPS * HALVES)]


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = mlp()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.02)


def test_recording_around_prepare(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=HALVES)
    prepared, optimizer = accelerator.prepare(*fresh())
    with gradscope.record(prepared, optimizer, tmp_path / "theirs.h5", on_failure="ignore") as run:
        for x, y in batches():
            with accelerator.accumulate(prepared):
                loss = nn.functional.cross_entropy(prepared(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss)
    model, plain = fresh()
    with gradscope.record(model, plain, tmp_path / "plain.h5", on_failure="ignore") as run:
        for k, (x, y) in enumerate(batches()):
            loss = nn.functional.cross_entropy(model(x), y)
            (loss / HALVES).backward()
            if k % HALVES == HALVES - 1:
                plain.step()
                plain.zero_grad()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "theirs.h5") as theirs, gradscope.open_run(tmp_path / "plain.h5") as ours:
        assert theirs.sizes["step"] == ours.sizes["step"] == STEPS
        for name in ("loss_gradient_mean_abs", "penalty_gradient_mean_abs", "weight_mean_abs", "proportion"):
            np.testing.assert_array_equal(theirs[name].values, ours[name].values, err_msg=name)
    for theirs_, ours_ in zip(prepared.parameters(), model.parameters(), strict=True):
        assert torch.equal(theirs_, ours_)
