"""The numbers of a page as JSON, small: layers as the upper half of a float32 (bfloat16, 0.4 % steps), in base64.

A hundred layers would not fit into 3 MB as text. The range is that of float32, so that what underflows is seen.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.card import inert
from gradscope.report.page.summary import Page, RunPage
from gradscope.report.page.windows import Envelope

Array = NDArray[np.floating]


def payload(page: Page) -> dict[str, Any]:
    """What the script of the page draws. The words of a record are inert in it; packed numbers stay as they are."""
    detailed = {run.label for run in page.detailed}
    return {"runs": [_run(run, run.label in detailed) for run in page.runs]}


def packed(values: Array) -> str:
    """Numbers as little-endian bfloat16 in base64, rounded to nearest, in the order of the array."""
    v = np.ascontiguousarray(values, dtype="<f4")
    bits = v.view("<u4")
    half = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    half[~np.isfinite(v)] = 0x7FC0  # nothing is drawn there
    return base64.b64encode(half.tobytes()).decode("ascii")


def points(envelope: Envelope, window_rows: int) -> Array:
    """Both ends of every window in the order in which a line passes them, [2W, K]; [W, K] where a window is a row."""
    if window_rows == 1:
        return envelope.low
    pair = (
        np.where(envelope.rising, envelope.low, envelope.high),
        np.where(envelope.rising, envelope.high, envelope.low),
    )
    return np.stack(pair, axis=1).reshape(-1, envelope.low.shape[1])


def positions(run: RunPage) -> Array:
    """The steps at which `points` are drawn."""
    if run.window_rows == 1:
        return run.begin
    span = run.end - run.begin
    return np.stack((run.begin + span / 4, run.begin + 3 * span / 4), axis=1).ravel()


def _run(run: RunPage, detailed: bool) -> dict[str, Any]:
    network = {name: points(envelope, run.window_rows)[:, 0] for name, envelope in run.network.items()}
    found: dict[str, Any] = {
        "label": inert(run.label),
        "failed": run.diagnosis.failed,
        "x": _numbers(positions(run)),
        "network": {name: _numbers(values) for name, values in network.items()},
        "marks": inert([{"step": m.step, "kind": m.kind, "text": m.text} for m in run.marks]),
        "metrics": {inert(name): _numbers(values) for name, values in run.metrics.items()},
        "detailed": detailed,
    }
    if detailed:
        found["layers"] = inert(run.parameters)
        found["modules"] = inert(run.quantities["signal"].names) if "signal" in run.quantities else []
        found["penalised"] = [row.penalised for row in run.table]
        found["named"] = inert(run.diagnosis.layers)
        found["begin"], found["end"] = _numbers(run.begin), _numbers(run.end)
        found["tables"] = {
            name: {"names": inert(q.names), "y": packed(points(q.envelope, run.window_rows).T)}
            for name, q in run.quantities.items()
        }
        seen = np.asarray(np.isfinite(run.balance).any(0))
        if seen.any():
            names = [name for name, s in zip(run.parameters, seen, strict=True) if s]
            found["tables"]["balance"] = {"names": inert(names), "y": packed(run.balance[:, seen].T)}
    return found


def _numbers(values: Array) -> list[float | int | None]:
    """Six significant digits; whole numbers without a point; null for what is not finite."""
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")
