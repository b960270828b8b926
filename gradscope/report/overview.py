"""What a record holds, as plain values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from gradscope.diagnosis.tolerance import recorded_strength
from gradscope.quantities import GRADIENT, WEIGHT
from gradscope.types import InputError

#: Rows read at a time; bounds the memory that a long record takes.
BLOCK = 16384


def overview(dataset: xr.Dataset) -> dict[str, Any]:
    """Parameters, steps, ranges and the capture of a record, as `gradscope inspect --json` prints them.

    ``ranges``: the smallest and largest finite value of each variable; ``samples``: in how many rows it holds any.
    """
    if not dataset.sizes.get("step"):
        raise InputError("the record is empty: no training step was recorded")
    config, capture = json.loads(dataset.attrs["config"]), json.loads(dataset.attrs["capture"])
    group = config["groups"][0]
    baseline = float(dataset.attrs.get("baseline_loss", np.nan))
    epochs = int(dataset["epoch"][-1]) + 1
    ranges, samples = _ranges(dataset)
    return {
        "status": dataset.attrs["status"],
        "rows": dataset.sizes["step"],
        "first_step": int(dataset["step"].values[0]),
        "last_step": int(dataset["step"].values[-1]),
        "epochs": epochs or None,
        "seconds": float(dataset["time"][-1]),
        "optimizer": str(group.get("class", "unknown"))
        + (f" lr {group['lr']:g}" if isinstance(group.get("lr"), int | float) else ""),
        "penalty": dataset.attrs["penalty"],
        "schedule": str(config.get("schedule") or "constant"),
        "preset": str(config.get("preset", "unknown")),
        "strength": recorded_strength(dataset),
        "baseline_loss": baseline if np.isfinite(baseline) else None,
        "entries": int(dataset["numel"].sum()),
        "parameters": _parameters(dataset, config),
        "modules": [str(name) for name in dataset["module"].values] if "module" in dataset.coords else [],
        "ranges": ranges,
        "samples": samples,
        "meanings": {name: str(dataset[name].attrs.get("long_name", "")) for name in ranges},
        "capture": capture,
        "config": config,
    }


def _parameters(dataset: xr.Dataset, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Each parameter, with mean |w| and mean |∂L/∂w| in the first and the last row."""
    ends = {
        name: dataset[name].isel(step=[0, -1]).values.astype(np.float64)
        for name in (WEIGHT.name, GRADIENT.name)
        if name in dataset
    }
    shapes = config.get("shapes")
    known = shapes if isinstance(shapes, dict) else {}
    return [
        {
            "name": str(name),
            "shape": [int(n) for n in known.get(str(name), ())],
            "penalised": bool(dataset["penalised"].values[k]),
            "group": int(dataset["group"].values[k]),
            **{quantity: [_number(value) for value in table[:, k]] for quantity, table in ends.items()},
        }
        for k, name in enumerate(dataset["parameter"].values)
    ]


def _ranges(dataset: xr.Dataset) -> tuple[dict[str, tuple[float | None, float | None]], dict[str, int]]:
    ranges, samples = {}, {}
    for name, variable in dataset.data_vars.items():
        if "step" not in variable.dims:
            continue
        low, high, count = np.inf, -np.inf, 0
        for start in range(0, dataset.sizes["step"], BLOCK):
            values = np.asarray(variable.isel(step=slice(start, start + BLOCK)).values)
            finite = np.isfinite(values)
            count += int(finite.reshape(len(values), -1).any(1).sum())
            if finite.any():
                low, high = min(low, values[finite].min()), max(high, values[finite].max())
        ranges[str(name)] = (_number(low), _number(high))
        samples[str(name)] = count
    return ranges, samples


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
