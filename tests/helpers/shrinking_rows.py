"""Rows of two layers that a penalty shrinks, as the judge reads them."""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis.run_prefix import Baseline, RunPrefix
from gradscope.diagnosis.series import network_series
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.run_info import RunInfo

INFO = RunInfo(
    parameters=("0.weight", "2.weight"), numel=np.array([100.0, 100.0]), penalised=np.array([True, True]),
    group=np.array([0, 0]), penalty="l2", momentum=(0.0,), beside=(False,), adaptive=(False,),
    baseline_loss=2.3, baseline_source="given", horizon=1000, modules=("0", "2"),
)  # fmt: skip


def rows(steps: int, strength: float = 0.05, fall: float = 0.01) -> dict[str, np.ndarray]:
    """Two layers that a penalty shrinks, the second twice as fast in its signal."""
    t = np.arange(steps, dtype=np.float64)
    w = 0.1 * np.exp(-fall * t)[:, None] * np.ones(2)
    return {
        "step": t.astype(np.int64), "loss": np.full(steps, 2.3), "learning_rate": np.full((steps, 1), 0.1),
        "strength": np.full((steps, 1), strength), "loss_gradient_mean_abs": w**2,
        "penalty_gradient_mean_abs": 2 * strength * w, "weight_mean_abs": w, "weight_norm": 10 * w,
        "weight_gradient_dot": -0.1 * w**3, "nonfinite_count": np.zeros((steps, 2)),
        "activation_std": np.exp(-np.array([0.005, 0.01]) * t[:, None]), "activation_mean_abs": np.ones((steps, 2)),
    }  # fmt: skip


def look(table: dict[str, np.ndarray], info: RunInfo = INFO) -> RunPrefix:
    series = network_series(table, info)
    return RunPrefix(series, len(series), info, Baseline(info.baseline_loss, info.baseline_source), Thresholds())
