"""Encode the numbers of a page as small JSON: layers as bfloat16 (the upper half of a float32) in base64.

A hundred layers would not fit into 3 MB as text. The range is that of float32, so that what underflows is seen; the
steps are 0.4 %.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.card import inert
from gradscope.quantities import is_l2
from gradscope.report.page.page_values import Page, PageQuantity, RunPage
from gradscope.report.page.windows import Envelope

Array = NDArray[np.floating]


def payload(page: Page) -> dict[str, Any]:
    """Return what the script of the page draws, with the words of a record made inert."""
    detailed = {run.label for run in page.detailed}
    return {"runs": [_run(run, run.label in detailed) for run in page.runs]}


def packed(values: Array) -> str:
    """Encode numbers as little-endian bfloat16 in base64, rounded to nearest, in the order of the array."""
    v = np.ascontiguousarray(values, dtype="<f4")
    bits = v.view("<u4")
    half = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    half[~np.isfinite(v)] = 0x7FC0  # nothing is drawn there
    return base64.b64encode(half.tobytes()).decode("ascii")


def _series(envelope: Envelope, window_rows: int) -> dict[str, Array]:
    """Return the parts of an envelope, [W, K] each; where a window is a row they are one."""
    mean = {"mean": envelope.mean}
    return mean if window_rows == 1 else {**mean, "low": envelope.low, "high": envelope.high}


def _run(run: RunPage, detailed: bool) -> dict[str, Any]:
    series = {name: _series(envelope, run.window_rows) for name, envelope in run.network.items()}
    found: dict[str, Any] = {
        "label": inert(run.label),
        "verdict": str(run.diagnosis.verdict),
        "failed": run.diagnosis.failed,
        "baseline": _number(run.baseline),
        "decay": is_l2(run.penalty),
        "x": _numbers((run.begin + run.end) / 2),
        "end": _number(float(run.end[-1])),
        "pass": run.windows_per_pass,
        "network": {name: {part: _numbers(v[:, 0]) for part, v in parts.items()} for name, parts in series.items()},
        "marks": inert([{"step": m.step, "kind": m.kind, "text": m.text} for m in run.marks]),
        "metrics": {inert(name): _numbers(values) for name, values in run.metrics.items()},
        "detailed": detailed,
    }
    if detailed:
        found["layers"], found["layersTotal"] = inert(run.parameters), run.layers_total
        found["modules"] = inert(run.quantities["signal"].names) if "signal" in run.quantities else []
        found["numel"] = _numbers(run.numel)
        found["penalised"] = [row.penalised for row in run.table]
        found["blocks"], found["moduleBlocks"] = (inert(list(b)) for b in (run.blocks, run.module_blocks))
        found["named"] = inert([[name, source] for name, source in run.named.items()])
        found["tables"] = {name: _table(q, run.window_rows) for name, q in run.quantities.items()}
    return found


def _table(q: PageQuantity, window_rows: int) -> dict[str, Any]:
    parts = _series(q.envelope, window_rows) | ({} if q.weight is None else {"weight": q.weight})
    if np.array_equal(q.envelope.low, q.envelope.high, equal_nan=True):
        parts = {name: values for name, values in parts.items() if name not in ("low", "high")}
    return {"names": inert(q.names), **{name: packed(values.T) for name, values in parts.items()}}


def _numbers(values: Array) -> list[float | int | None]:
    """Round to six significant digits; whole numbers without a point; null for what is not finite."""
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")
