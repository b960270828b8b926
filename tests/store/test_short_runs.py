"""What a record of a few rows takes on disk."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

import gradscope
from gradscope.store.layout import chunk_rows


def test_rows_of_a_chunk() -> None:
    assert chunk_rows(40) == 1024
    assert chunk_rows(1 << 20) == 16
    assert [chunk_rows(40, planned) for planned in (1, 64, 65, 100, 500, 513, 1024, 10**6)] == [
        64, 64, 128, 128, 512, 1024, 1024, 1024,
    ]  # fmt: skip
    assert chunk_rows(1 << 20, 100) == 16


def record(path: Path, steps: int, horizon: int | None) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(5)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.001)
    with gradscope.record(model, optimizer, path, on_failure="ignore", horizon=horizon) as run:
        for _ in range(steps):
            loss = model(torch.ones(2, 16)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)


def test_a_short_run_that_says_so_takes_little_room_and_may_go_on_beyond(tmp_path: Path) -> None:
    """Of 100 rows and 10 tensors; 723 KB without."""
    record(tmp_path / "short.h5", 100, 100)
    assert (tmp_path / "short.h5").stat().st_size < 220_000
    record(tmp_path / "longer.h5", 300, 100)
    with gradscope.open_run(tmp_path / "longer.h5") as run:
        np.testing.assert_array_equal(run["step"].values, np.arange(300))
        assert np.isfinite(run["loss_gradient_mean_abs"].values).all()
    with h5py.File(tmp_path / "longer.h5") as file:
        assert file["loss"].chunks == (128,)
    record(tmp_path / "unknown.h5", 5, None)
    with h5py.File(tmp_path / "unknown.h5") as file:
        assert file["loss"].chunks == (1024,)
