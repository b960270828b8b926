"""The tables of the study, from what was trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from analyses.common.markdown import MISSING, markdown
from analyses.common.results import Results, Row
from analyses.common.statistics import Mean, mean, p_value
from analyses.common.study import Options, recorded_in
from analyses.strong_regularization import document
from analyses.strong_regularization.diagnostics import diagnostics
from analyses.strong_regularization.plan import PARTS, PENALTIES, cells, protocol, setup
from analyses.strong_regularization.reading import Point, alike, best, chosen, series, sparsest, trained

#: Accuracy that a sparser net may cost.
GIVEN_UP = (0.0, 0.01, 0.02, 0.05, 0.1)


def percent(found: Mean) -> str | None:
    """``91.2 ± 0.4``; None for a mean of nothing."""
    if not found.count:
        return None
    return f"{100 * found.value:.1f}" + ("" if math.isnan(found.half_width) else f" ± {100 * found.half_width:.1f}")


def overall(rows: Sequence[Row], nets: Iterable[str], delayed: str) -> str:
    """Tables 2 and 3: for each net none, and of each penalty the best baseline, the best delayed and its sparse one."""
    lines: list[list[object]] = []
    for net in nets:
        none = best(series(rows, net, "none", "constant"))
        found = [None, None] if none is None else [f"{none.sparsity:.3f}", percent(none.accuracy)]
        lines.append([net, "no penalty", None, *found, None, None])
        for penalty in ("l2", "l1"):
            base = best(series(rows, net, penalty, "constant"))
            late = series(rows, net, penalty, delayed)
            ours = best(late)
            if base is None or ours is None:
                continue
            gain = _gain(ours, base)
            named: list[tuple[str, Point, str | None, str | None]]
            named = [("baseline", base, None, None), ("delayed", ours, gain, None)]
            if penalty == "l1" and (sparse := sparsest(late, base.accuracy.value)) is not None:
                named.append(("delayed (sparse)", sparse, None, f"{(1 - base.sparsity) / (1 - sparse.sparsity):.1f}×"))
            for name, point, *rest in named:
                shown = [f"{point.strength:g}", f"{point.sparsity:.3f}", percent(point.accuracy)]
                lines.append([net, f"{penalty} {name}", *shown, *rest])
    columns = ("net", "method", "λ", "sparsity", "accuracy, %", "over the baseline", "compression")
    return markdown(columns, lines)


def _gain(ours: Point, base: Point) -> str | None:
    """By the seeds that both have; None where there is none."""
    late, early = ours.beside(base), base.beside(ours)
    if not late:
        return None
    p = p_value(late, early)
    told = f" (p = {p:.3f})" if math.isfinite(p) else ""  # one seed tells no chance from it
    few = "" if len(late) == max(len(ours.seeds), len(base.seeds)) else f", {len(late)} of the seeds"
    return f"{100 * (mean(late).value / mean(early).value - 1):+.2f} %{told}{few}"


def compression(rows: Sequence[Row], nets: Iterable[str], delayed: str) -> str:
    """How sparse L1 may make a net, baseline and delayed, at some accuracy below the best baseline mean.

    The rate is that of the weights that are left. The document gives up nothing (its Table 2).
    """
    lines: list[list[object]] = []
    for net in nets:
        both = [series(rows, net, "l1", schedule) for schedule in ("constant", delayed)]
        if (top := best(both[0])) is None:
            continue
        for given_up in GIVEN_UP:
            found = [sparsest(points, top.accuracy.value - given_up) for points in both]
            line: list[object] = [net, f"{100 * given_up:g}"]
            for point in found:
                line += [None, None, None] if point is None else [
                    f"{point.strength:g}", f"{point.sparsity:.3f}", percent(point.accuracy)
                ]  # fmt: skip
            one, other = found
            rate = None if one is None or other is None else f"{(1 - one.sparsity) / (1 - other.sparsity):.2f}×"
            lines.append([*line, rate])
    names = [f"{which}{name}" for which in ("", "delayed: ") for name in ("λ", "sparsity", "accuracy, %")]
    return markdown(("net", "points given up", *names, "compression"), lines)


def strengths(rows: Sequence[Row], net: str, penalty: str, delayed: str) -> str:
    """The panels of Figures 3, 4, 6 and 7 in numbers: accuracy, runs that fail, sparsity, at every strength."""
    both = [{p.strength: p for p in series(rows, net, penalty, schedule)} for schedule in ("constant", delayed)]
    lines = []
    for strength in sorted(both[0].keys() | both[1].keys()):
        line: list[object] = [f"{strength:g}"]
        for points in both:
            p = points.get(strength)
            line += [None, None, None] if p is None else [
                percent(p.accuracy), f"{p.failed} of {len(p.accuracies)}", f"{p.sparsity:.3f}"
            ]  # fmt: skip
        lines.append(line)
    names = [f"{which}{name}" for which in ("", "delayed: ") for name in ("accuracy, %", "fail", "sparsity")]
    return markdown(("λ", *names), lines)


def schedules(rows: Sequence[Row], net: str, penalty: str, strength: float) -> str:
    """Every schedule that was tried at one strength, by the seeds that all have: γ, the adaptive ones, Appendix B."""
    found = [row for row in chosen(rows, net=net, penalty=penalty) if row["strength"] == strength]
    found = alike([*found, *(r for r in chosen(rows, net=net, penalty=penalty) if r["schedule"].startswith("cpr"))])
    lines: list[list[object]] = []
    for schedule in dict.fromkeys(row["schedule"] for row in found):
        some = [row for row in found if row["schedule"] == schedule]
        on = [row["on"] for row in some]
        began = ", ".join(MISSING if step is None else str(step) for step in on)
        weights = mean([row["weights"][-1] / row["weights"][0] for row in some]).value
        share = f"{sum(row['failed'] for row in some)} of {len(some)}"
        accuracy = percent(mean([row["accuracy"] for row in some]))
        lines.append([schedule, share, accuracy, f"{mean([r['sparsity'] for r in some]).value:.3f}", began])
        lines[-1].append(f"{weights:.2g}")
    columns = (
        "schedule",
        "fail",
        "accuracy, %",
        "sparsity",
        "penalty from step",
        "mean \\|w\\|, last over first epoch",
    )
    return markdown(columns, lines)


def collapses(rows: Sequence[Row]) -> str:
    """Figures 1c, 2, 5 in numbers: how many times loss gradients and weights fall in runs that fail.

    From the first epoch under a penalty of constant strength to the second, means over the penalised weights. Beside
    them, in how many of the runs that learn the gradients fall faster too.
    """
    lines: list[list[object]] = []
    constant = [row for row in chosen(rows, schedule="constant") if row["penalty"] != "none"]
    for net, penalty in sorted({(row["net"], row["penalty"]) for row in constant}):
        some = [row for row in constant if (row["net"], row["penalty"]) == (net, penalty)]
        failing, learning = ([_falls(row) for row in some if row["failed"] == failed] for failed in (True, False))
        shown = [f"{min(values):.3g} to {max(values):.3g}" for values in zip(*failing, strict=True)] or [
            MISSING,
            MISSING,
        ]
        counts = [f"{sum(g > w for g, w in falls)} of {len(falls)}" for falls in (failing, learning)]
        lines.append([net, penalty, *shown, *counts])
    columns = ("gradients fall, times", "weights fall, times", "gradients faster in", "of runs that learn")
    return markdown(("net", "penalty", *columns), lines)


def _falls(row: Row) -> tuple[float, float]:
    """How many times gradients and weights fall from the first epoch to the second."""
    (before, after), (first, second) = row["gradients"][:2], row["weights"][:2]
    return before / after if after else math.inf, first / second if second else math.inf


def tolerance(rows: Sequence[Row]) -> str:
    """The levels that were searched, with their 95 % intervals, beside what `suggest` says without a whole run."""
    searched, suggested = (
        {(row["net"], row["penalty"]): row for row in rows if row.get(kind)} for kind in ("search", "suggest")
    )
    lines = []
    for net, penalty in {**searched, **suggested}:
        line: list[object] = [net, penalty]
        row = searched.get((net, penalty))
        for prefix in ("", "delayed_"):
            line += [None, None] if row is None else [_level(row, prefix), row[f"{prefix}reason"]]
        told = suggested.get((net, penalty))
        line += [row and row["trials"], told and (_level(told, "") or told["reason"]), told and told["steps_run"]]
        lines.append(line)
    columns = ("net", "penalty", "λ*", "the search on it", "λ* with a delay", "the search on it", "trials")
    return markdown((*columns, "predicted by suggest", "steps of its probes"), lines)


def _level(row: Row, prefix: str) -> str | None:
    level, low, high = (row[f"{prefix}{name}"] for name in ("tolerance", "low", "high"))
    return None if level is None else f"{level:.3g} ({low:.3g} … {high:.3g})"


def document_p() -> str:
    """The document's p values beside what its printed means and intervals give."""
    lines = []
    for row in document.REPORTED:
        one, other = (document.p_again(row, quantile) for quantile in (document.NORMAL, document.STUDENT))
        accuracies = [f"{value:.2f} ± {half:.2f}" for value, half in (row.baseline, row.delayed)]
        shown = [f"{one:.3f}", f"{2 * min(one, 1 - one):.3f}", f"{other:.4f}"]
        compressed = None if row.compression is None else f"{row.compression:g}×"
        lines.append(
            [row.table, row.dataset, row.net, row.penalty, f"{row.none:.2f}", *accuracies, compressed, row.p, *shown]
        )
    columns = (
        "table", "data", "net", "penalty", "none", "baseline", "delayed", "compression",
        "p, printed", "normal ±, one-sided", "two-sided", "Student's ±, one-sided",
    )  # fmt: skip
    return markdown(columns, lines)


def missing(rows: Sequence[Row], asked: Options) -> str:
    """How much of each part there is."""
    lines = []
    for part in PARTS:
        planned = cells(part, asked)
        lines.append([part, f"{trained(rows, planned)} of {len(planned)}"])
    return markdown(("part", "cells trained"), lines)


def sections(rows: Sequence[Row], asked: Options) -> Iterator[tuple[str, str]]:
    """Title and text of each section of the file."""
    plan = setup(asked)
    yield "What there is", missing(rows, asked)
    for delayed in plan.delays:
        which = f", {delayed}" if len(plan.delays) > 1 else ""
        yield f"Best of each (Tables 2 and 3){which}", overall(rows, plan.nets, delayed)
        yield f"Sparsity at matched accuracy, L1{which}", compression(rows, plan.nets, delayed)
        for net, penalty in product(plan.nets, PENALTIES):
            if chosen(rows, net=net, penalty=penalty):
                yield f"{net}, {penalty}, every strength{which}", strengths(rows, net, penalty, delayed)
    for penalty, strength in plan.strong.items():
        if chosen(rows, net=plan.main, penalty=penalty, strength=strength):
            text = schedules(rows, plan.main, penalty, strength)
            yield f"{plan.main}, {penalty}, λ = {strength:g}, every schedule", text
    yield "Runs under a constant strength, from their first epoch to their second", collapses(rows)
    yield from diagnostics(rows)
    yield "Tolerance levels, 95 % intervals", tolerance(rows)


def tables(folder: Path) -> dict[str, str]:
    """All tables of every scale and data set, and the document's own."""
    found = {"tables-document.md": document_p() + "\n"}
    for asked in recorded_in(folder, seeds=3):
        rows, how = Results(asked.results).recorded(), protocol(setup(asked).main, asked)
        machines, days = (sorted({row[name] for row in rows}) for name in ("machine", "date"))
        text = [
            f"Written by `python -m analyses plot strong_regularization` from {asked.results.name}: "
            f"{len(rows)} rows, {', '.join(machines)}, {days[0]} to {days[-1]}. Means over seeds with 95 % intervals "
            "(Student's t), p of Welch's two-sided t-test. "
            f"{how.epochs} epochs, a batch of {how.batch}, rate {how.lr:g}."
        ]
        for title, table in sections(rows, asked):
            text += [f"## {title}", table]
        found[f"tables-{asked.results.stem}.md"] = "\n\n".join(text) + "\n"
    return found
