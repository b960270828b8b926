"""What a record holds, as plain values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from gradscope.diagnosis.tolerance import recorded_strength
from gradscope.types import InputError


def overview(dataset: xr.Dataset) -> dict[str, Any]:
    """Parameters, steps, ranges and the capture of a record, as `gradscope inspect --json` prints them."""
    if not dataset.sizes.get("step"):
        raise InputError("the record is empty: no training step was recorded")
    config, capture = json.loads(dataset.attrs["config"]), json.loads(dataset.attrs["capture"])
    group = config["groups"][0]
    baseline = float(dataset.attrs["baseline_loss"])
    return {
        "status": dataset.attrs["status"],
        "rows": dataset.sizes["step"],
        "first_step": int(dataset["step"].values[0]),
        "last_step": int(dataset["step"].values[-1]),
        "optimizer": f"{group['class']} lr {group['lr']:g}",
        "penalty": dataset.attrs["penalty"],
        "schedule": config["schedule"],
        "preset": config["preset"],
        "strength": recorded_strength(dataset),
        "baseline_loss": baseline if np.isfinite(baseline) else None,
        "entries": int(dataset["numel"].sum()),
        "parameters": [
            {
                "name": str(name),
                "shape": config["shapes"][str(name)],
                "penalised": bool(penalised),
                "group": int(index),
            }
            for name, penalised, index in zip(
                dataset["parameter"].values, dataset["penalised"].values, dataset["group"].values, strict=True
            )
        ],
        "modules": [str(name) for name in dataset["module"].values] if "module" in dataset.coords else [],
        "ranges": {str(name): _range(dataset[name]) for name in dataset.data_vars if "step" in dataset[name].dims},
        "capture": capture,
        "config": config,
    }


def _range(variable: xr.DataArray) -> tuple[float | None, float | None]:
    values = np.asarray(variable.values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (None, None)
