"""Late nets probed at a raised learning rate (three core-minutes).

A level hardly depends on the learning rate, and a net that learns late is a net whose rate is low. So its rate is
raised until a run without a penalty escapes as soon as others do, and the usual three short probes are run at it. What
they read is compared with the level at the rate as it is; every configuration is read without its family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.prediction.collect import escape
from analyses.prediction.configurations import Configuration
from analyses.prediction.data import Case, first_rows, recorded
from analyses.prediction.fit import tried
from analyses.prediction.held_out import Found, tried_all
from analyses.prediction.tasks import task
from analyses.prediction.training import Ensemble, probes
from gradscope.prediction.ask_tell import LATE, PROBES, Prober, rows_needed
from gradscope.prediction.features import free_features
from gradscope.prediction.level_reader import Reader
from gradscope.prediction.rows import Probe

FILE = "raised.jsonl"
#: Times the rate, the first at which both runs without a penalty escape in time.
FACTORS = (1, 2, 4, 8, 16, 32)
SEEDS = (1, 2)


def run(c: Configuration, strengths: Sequence[float], seeds: Sequence[int], rows: int) -> list[Probe]:
    """The first rows of these runs."""
    loss, sizes = (values.astype(np.float64) for values in probes(c, strengths, seeds, rows))
    runs = Ensemble(c, [0.0], [0])
    numel = [runs.parameters[name][0].numel() for name in runs.matrices]
    facts = {"numel": numel, "baseline": task(c.task).baseline, "strengths": list(strengths)}
    return list(recorded(c, facts, loss, sizes, range(len(strengths)), 1))


def late(found: Found) -> list[Case]:
    """The configurations that learn late."""
    return [case for case in found["direct"][0] if case.is_late]


def cells(asked: Options) -> list[Cell]:
    """One a configuration."""
    return [{"key": case.configuration.key} for case in late(tried_all())]


def probed(cell: Cell, asked: Options) -> Row:
    """One configuration, by the reader that has not seen its family."""
    found = tried_all()
    case = next(case for case in late(found) if case.configuration.key == cell["key"])
    return raised(case, found["direct"][2][case.configuration.family])


def raised(case: Case, reader: Reader) -> Row:
    """The factor, the error of the level that its probes tell, and the steps of it all."""
    c, spent, baseline = case.configuration, 0, task(case.configuration.task).baseline
    found: Row = {"family": c.family, "factor": None, "error": None}
    for factor in FACTORS:
        faster = replace(c, lr=c.lr * factor)
        free = run(faster, [0.0] * len(SEEDS), SEEDS, LATE)
        spent += LATE * len(SEEDS)
        if max(escape(probe.loss, baseline) for probe in free) <= LATE:
            break
    else:
        return {**found, "steps": spent}
    prober = Prober({c.group: reader}, c.penalty)
    prober.free.append(free[0])
    start = reader.guess(free[0], free_features(first_rows(free[0])))
    while not prober.done:
        strength = 10 ** prober.place(start)
        rows = rows_needed(replace(free[0], strength=strength))
        (probe,) = run(faster, [strength], [10 + len(prober.told)], rows)
        spent += rows
        if not (np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all()):
            return {**found, "factor": factor, "steps": spent}
        prober.told.append((probe, reader.distance(probe)))
    return {**found, "factor": factor, "error": prober.level() - math.log10(case.level), "steps": spent}


def line(name: str, errors: Sequence[float], steps: Sequence[int]) -> list[str]:
    """A way, in a table."""
    sizes = np.abs(errors)
    shares = (f"{np.mean(sizes <= math.log10(x)):.2f}" for x in (1.2, 1.5))
    return [name, str(len(sizes)), f"{np.median(errors):+.2f}", f"{np.median(sizes):.3f}",
            f"{np.quantile(sizes, 0.9):.2f}", *shares, f"{np.median(steps):.0f}"]  # fmt: skip


def told(found: Found, folder: Path) -> str:
    """The table."""
    _, _, readers = found["direct"]
    rows = Results(folder / FILE).by("key")
    those = [case for case in late(found) if case.configuration.key in rows]
    read = [case for case in those if rows[case.configuration.key]["error"] is not None]
    lines = []
    for name, short in (("short probes at its own rate", True), ("long probes at its own rate (suggest)", False)):
        ways = [tried(replace(case, late=()) if short else case, readers[case.configuration.family])
                for case in read]  # fmt: skip
        lines.append(line(name, [t.error for t in ways], [t.steps[t.ended - 1] for t in ways]))
    mine = [rows[case.configuration.key] for case in read]
    lines.append(line("short probes at a raised rate", [r["error"] for r in mine], [r["steps"] for r in mine]))
    for kind, adaptive in (("SGD", False), ("AdamW", True)):
        some = [rows[c.configuration.key] for c in read if (c.configuration.optimizer == "adamw") == adaptive]
        lines.append(line(f"the same, {kind}", [r["error"] for r in some], [r["steps"] for r in some]))
    factors = sorted(r["factor"] for r in mine)
    text = [
        "Written by `python -m analyses plot prediction` from probes.npz and raised.jsonl.", "",
        f"{len(those)} configurations that learn late, of SGD and AdamW; {len(read)} of them escape in {LATE} steps at "
        f"a rate raised by {factors[0]} to {factors[-1]} (median {int(np.median(factors))}), and are read. "
        "Families held out:", "",
        markdown(["way", "configurations", "median, signed", "median error", "90 %", "within 1.2x", "within 1.5x",
                  "steps, median"], lines), "",
        f"At most {PROBES} probes; the steps count all runs without a penalty that it took to find the rate.", "",
    ]  # fmt: skip
    return "\n".join(text)
