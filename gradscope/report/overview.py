"""Contents of a record, as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradscope.quantities import GRADIENT, WEIGHT
from gradscope.store.record import Record
from gradscope.types import InputError


def overview(record: Record) -> dict[str, Any]:
    """Summarise parameters, steps, ranges and the capture of a record, as `gradscope inspect --json` prints them.

    ``ranges`` holds the smallest and largest finite value of each variable, ``samples`` in how many rows it holds any.

    Returns:
        Plain values by name.

    Raises:
        InputError: the record has no rows.
    """
    if not record.rows:
        raise InputError("the record is empty: no training step was recorded")
    baseline, rate = record.info.baseline_loss, record.learning_rate
    ranges, samples = _ranges(record)
    return {
        "status": record.status,
        "rows": record.rows,
        "first_step": int(record.steps[0]),
        "last_step": int(record.steps[-1]),
        "epochs": record.epochs,
        "seconds": float(record.column("time", -1)),
        "optimizer": record.optimizer + ("" if rate is None else f" lr {rate:g}"),
        "penalty": record.penalty,
        "schedule": record.schedule,
        "preset": record.preset,
        "strength": record.strength.value,
        "baseline_loss": baseline if np.isfinite(baseline) else None,
        "entries": int(record.info.numel.sum()),
        "parameters": _parameters(record),
        "modules": list(record.info.modules),
        "ranges": ranges,
        "samples": samples,
        "meanings": {name: record.meanings[name] for name in ranges},
        "capture": record.capture,
        "config": record.config,
    }


def _parameters(record: Record) -> list[dict[str, Any]]:
    """List each parameter, with mean |w| and mean |∂L/∂w| in the first and the last row."""
    ends = {q.name: record.column(q.name, [0, -1]).astype(np.float64) for q in (WEIGHT, GRADIENT) if q.name in record}
    shapes, info = record.shapes, record.info
    return [
        {
            "name": name,
            "shape": list(shapes.get(name, ())),
            "penalised": bool(info.penalised[k]),
            "group": int(info.group[k]),
            **{quantity: [_number(value) for value in table[:, k]] for quantity, table in ends.items()},
        }
        for k, name in enumerate(info.parameters)
    ]


def _ranges(record: Record) -> tuple[dict[str, tuple[float | None, float | None]], dict[str, int]]:
    names = [name for name, dims in record.dims.items() if "step" in dims]
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    samples = dict.fromkeys(names, 0)
    for block in record.blocks(names):
        for name in names:
            values = block[name]
            finite = np.isfinite(values)
            samples[name] += int(finite.reshape(len(values), -1).any(1).sum())
            if finite.any():
                low[name] = min(low[name], values[finite].min())
                high[name] = max(high[name], values[finite].max())
    return {name: (_number(low[name]), _number(high[name])) for name in names}, samples


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
