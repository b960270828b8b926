"""Records written by hand: any number of layers and steps in a second, with what a test wants in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradscope.store.storage import Storage
from gradscope.store.writer import Writer

BLOCK = 4096


def handmade(
    path: Path, layers: int, steps: int, *, prefix: str = "blocks.", spike: float = 7.0, names: list[str] | None = None
) -> Path:
    """A run that collapses, deeper layers faster; one gradient of ``spike`` in the middle layer at the middle step.

    ``names``: of the layers; a penalty acts on those that are no biases.
    """
    names = names or [f"{prefix}{i}.weight" for i in range(layers)]
    attributes = {
        "gradscope_version": "0", "penalty": "l2", "baseline_loss": 2.3, "horizon": steps,
        "config": {"groups": [{"class": "SGD", "lr": 0.1, "momentum": 0.9}], "schedule": "constant"},
        "capture": {"note": f"made by hand: {prefix}"},
    }  # fmt: skip
    static = {
        "numel": np.full(layers, 64),
        "penalised": np.array([not name.endswith("bias") for name in names]),
        "group": np.zeros(layers, dtype=np.int64),
    }
    modules = [f"{prefix}{i}" for i in range(layers)]
    writer = Writer(
        path,
        parameters=names,
        modules=modules,
        groups=1,
        static=static,
        attributes=attributes,
        storage=Storage(compression=None),
    )
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal((BLOCK, layers)))
    for start in range(0, steps, BLOCK):
        writer.append(_rows(start, min(BLOCK, steps - start), steps, noise, spike))
    writer.event(steps // 2, "strength", f"{prefix}strength")
    writer.epoch(0, {f"{prefix}accuracy".replace("/", "_"): 0.5})
    writer.epoch(1, {f"{prefix}accuracy".replace("/", "_"): 0.1})
    writer.close("finished")
    return path


def _rows(start: int, n: int, steps: int, noise: np.ndarray, spike: float) -> dict[str, np.ndarray]:
    layers = noise.shape[1]
    at = start + np.arange(n)
    fade = np.exp(-20 * (at / steps)[:, None] * np.linspace(1, 3, layers))
    gradient = (1e-3 * fade * noise[:n]).astype(np.float32)
    weight = np.repeat((0.05 * np.exp(-8 * at / steps)).astype(np.float32)[:, None], layers, axis=1)
    if start <= steps // 2 < start + n:
        gradient[steps // 2 - start, layers // 2] = spike
    penalty = 0.08 * weight
    return {
        "step": at,
        "time": at * 0.01,
        "loss": np.full(n, 2.3, dtype=np.float32),
        "strength": np.full((n, 1), 0.04, dtype=np.float32),
        "learning_rate": np.full((n, 1), 0.1, dtype=np.float32),
        "loss_gradient_mean_abs": gradient,
        "penalty_gradient_mean_abs": penalty,
        "proportion": gradient / (gradient + penalty),
        "weight_mean_abs": weight,
        "weight_norm": 8 * weight,
        "weight_gradient_dot": -64 * gradient * weight,
        "activation_std": 20 * gradient,
        "activation_mean_abs": weight,
    }
