"""A record that a test writes row by row, for what follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradscope.store.writer import Writer


def open_writer(path: Path) -> Writer:
    attributes = {
        "gradscope_version": "0", "penalty": "l2", "baseline_loss": 2.3, "horizon": 400,
        "config": {"groups": [{}], "schedule": "constant"}, "capture": {},
    }  # fmt: skip
    static = {"numel": np.array([4]), "penalised": np.array([True]), "group": np.array([0])}
    return Writer(path, parameters=["a"], modules=[], groups=1, static=static, attributes=attributes)


def rows(start: int, n: int) -> dict[str, np.ndarray]:
    at = start + np.arange(n)
    table = np.exp(-0.05 * at)[:, None].astype(np.float32)
    names = ("loss_gradient_mean_abs", "weight_mean_abs", "penalty_gradient_mean_abs", "weight_norm")
    return {"step": at, "time": at * 0.5, "loss": np.full(n, 2.3, dtype=np.float32), **dict.fromkeys(names, table)}
