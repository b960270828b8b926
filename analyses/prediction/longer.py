"""Longer probes from the start: 60 and 80 rows in the place of 40, families held out (seven core-minutes a number).

The probes of probes.npz are trained again for more steps, with the same strengths and seeds; a late net has the long
ones that it had. A reader is taught such rows, and reads families that it has not seen.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.prediction.attempts import MOST
from analyses.prediction.data import FILE as PACKED
from analyses.prediction.data import Case, Seen, cases, recorded, usable
from analyses.prediction.fit import held_out, of_kind
from analyses.prediction.held_out import FACTORS, figures
from analyses.prediction.training import probes
from gradscope.prediction.ask_tell import FOLDINGS, PROBES, SHORTEST
from gradscope.prediction.features import features

FILE = "longer.jsonl"
#: Rows of a probe at most; the first is what is shipped.
ROWS = (40, 60, 80)
ENDS = "as it ends"


def lengthened(case: Case, facts: dict[str, Any], most: int, cache: Path | None) -> Case:
    """The configuration with probes of at most so many rows; ``cache``: a folder for their rows."""
    c = case.configuration
    path = None if cache is None else cache / f"longer-{c.key}.npz"
    if path is not None and path.exists():
        with np.load(path) as held:
            loss, sizes = held["loss"], held["sizes"]
    else:
        seeds = [1, 2, *range(2000, 2000 + len(facts["places"]))]
        loss, sizes = probes(c, facts["strengths"], seeds, max(ROWS))
        if path is not None:
            np.savez(path, loss=loss, sizes=sizes)
    runs = range(len(facts["strengths"]))
    _, _, *under = recorded(c, facts, loss[:, :most], sizes[:, :most], runs, 1)
    rows = [min(most, max(SHORTEST, math.ceil(FOLDINGS * min(probe.folding, most) + 5))) for probe in under]
    asked = zip(facts["places"], (probe.first(n) for probe, n in zip(under, rows, strict=True)), strict=True)
    seen = [Seen(u, probe.strength, len(probe.step), features(probe)) for u, probe in asked if usable(probe)]
    return replace(case, probes=tuple(seen))


def cells(asked: Options) -> list[Cell]:
    """One a length."""
    return [{"rows": rows} for rows in ROWS]


def tried_all(cell: Cell, asked: Options) -> Row:
    """The errors and steps of each configuration after each probe."""
    with np.load(PACKED) as file:
        packed = {facts["key"]: facts for facts in json.loads(str(file["facts"]))}
    known = of_kind(cases(), "direct")
    if cell["rows"] != ROWS[0]:
        cache = asked.more["cache"]
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        known = [
            case if case.is_late else lengthened(case, packed[case.configuration.key], cell["rows"], cache)
            for case in known
        ]
    results = held_out(known)
    return {
        "errors": {r.case.configuration.key: [round(e, 4) for e in r.errors] for r in results},
        "steps": {r.case.configuration.key: r.steps for r in results},
        "ended": {r.case.configuration.key: r.ended for r in results},
        "late": [r.case.configuration.key for r in results if r.case.is_late],
    }  # fmt: skip


def after(row: Row, probes: int | str) -> tuple[dict[str, float], list[int]]:
    """Errors by configuration after so many probes, and the steps until then of nets that are not late."""
    counts = {
        key: row["ended"][key] if probes == ENDS else min(int(probes), len(errors))
        for key, errors in row["errors"].items()
    }
    steps = [row["steps"][key][n - 1] for key, n in counts.items() if key not in row["late"]]
    return {key: row["errors"][key][n - 1] for key, n in counts.items()}, steps


def gained(errors: NDArray[Any], before: NDArray[Any], digits: int = 3) -> str:
    """The mean of a difference over configurations, with a 95 % interval from 2,000 draws of them."""
    gain = errors.astype(float) - before.astype(float)
    random = np.random.default_rng(0)
    low, high = np.quantile(gain[random.integers(len(gain), size=(2000, len(gain)))].mean(1), [0.025, 0.975])
    return f"{gain.mean():+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def told(folder: Path) -> str:
    """The table."""
    rows = {row["rows"]: row for row in Results(folder / FILE).rows()}
    shipped, _ = after(rows[ROWS[0]], ENDS)
    before = np.abs(list(shipped.values()))
    lines = []
    for length, row in sorted(rows.items()):
        for count in (*range(1, PROBES + 1), ENDS):
            errors, steps = after(row, count)
            sizes = np.abs([errors[key] for key in shipped])
            changes = [gained(np.minimum(sizes, MOST), np.minimum(before, MOST))]
            changes += [gained(sizes <= most, before <= most, 2) for most in FACTORS.values()]
            lines.append([f"{length} rows, {count}{'' if count == ENDS else ' probe' + 's' * (count != 1)}",
                          f"{np.median(steps):.0f} ({max(steps)})", *figures(list(errors.values())).values(),
                          *changes])  # fmt: skip
    columns = ["", "steps of early nets (at most)", "median error", "90 %", *FACTORS, "mean error",
               *(f"share {name}" for name in FACTORS)]  # fmt: skip
    return "\n".join([
        "Written by `python -m analyses plot prediction` from longer.jsonl.", "",
        f"{len(shipped)} configurations under SGD and AdamW, families held out; {len(rows[ROWS[0]]['late'])} late ones "
        f"have the long probes that they had. The last columns: against 40 rows as `suggest` ends.", "",
        markdown(columns, lines), "",
    ])  # fmt: skip
