"""Tables and figures from what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyses.auto_l2.methods import ALL, FIXED, LONG, MOVING, PARTS
from analyses.auto_l2.reported import REPORTED
from analyses.common.pictures import drawn
from analyses.common.results import Results, Row
from analyses.common.statistics import mean, p_value, paired_p_value
from analyses.common.study import Drawing, recorded_in
from gradscope.report.curves import Curve, Curves
from gradscope.report.style import STYLES

STYLE = replace(STYLES["screen"], dpi=100)  # small files
#: The accuracy whose first epoch says how fast a method is; the document has no such number, 70 % is ours for it.
REACHED = 0.9
#: The figures: 1 and 3, fixed strengths and Auto L2 with thresholds; 2 and 4, Advance L2.
FIGURES = {
    "figures-1-and-3": (*FIXED, *list(MOVING)[:3]),
    "figures-2-and-4": ("5e-4", *list(MOVING)[3:], "1e-4, small start"),
}


def of(rows: Sequence[Row], net: str, method: str) -> list[Row]:
    """The seeds of one method."""
    return [row for row in rows if (row["net"], row["method"]) == (net, method)]


def final(row: Row) -> float:
    """Test accuracy, the mean of the last five epochs."""
    return float(np.mean(row["accuracy"][-5:]))


def reached(row: Row) -> float:
    """Epochs (from 1) until the test accuracy is `REACHED`; infinite where it never is."""
    found = np.flatnonzero(np.asarray(row["accuracy"]) >= REACHED)
    return float(found[0] + 1) if len(found) else float("inf")


def best_fixed(rows: Sequence[Row], net: str) -> str:
    """The fixed strength (or none) with the highest mean accuracy at the end."""
    trained = [method for method in FIXED if of(rows, net, method)]
    return max(trained, key=lambda method: mean([final(row) for row in of(rows, net, method)]).value)


def table(rows: Sequence[Row], net: str) -> str:
    """Accuracy at the end, speed, where the strength ended, beside the document's single trainings on CIFAR-10."""
    best = best_fixed(rows, net)
    against = {row["seed"]: final(row) for row in of(rows, net, best)}
    lines = [
        f"**{net}** (best fixed: {best})",
        "",
        "| method | test accuracy, last 5 epochs | p against best fixed: Welch's | paired by seed "
        f"| epochs to {REACHED:.0%} | λ at the end | smallest ‖w‖ of the start | verdict "
        "| the document's, % | its epochs to 70 % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in ALL:
        if not (runs := of(rows, net, method)):
            continue
        found = mean([final(row) for row in runs])
        accuracy = f"{found.value:.3f}" + (f" ± {found.std:.3f}" if found.count > 1 else "")
        welch = p_value([final(row) for row in runs], list(against.values()))
        pairs = [(final(row), against[row["seed"]]) for row in runs if row["seed"] in against]
        by_seed = paired_p_value(*zip(*pairs, strict=True)) if pairs else np.nan
        p, paired = ("–" if method == best or np.isnan(found) else f"{found:.2g}" for found in (welch, by_seed))
        speed = ", ".join("never" if np.isinf(reached(row)) else f"{reached(row):.0f}" for row in runs)
        ends = sorted({f"{row['strength']['value'][-1]:.0e}" if row["strength"]["value"] else "0" for row in runs})
        sizes = [row["smallest_norm"] for row in runs if row["smallest_norm"] is not None]
        smallest = f"{min(sizes):.2g}" if sizes else "–"
        verdicts = "; ".join(sorted({row["verdict"] for row in runs}))
        theirs = REPORTED.get(net, {}).get(method)
        said = "– | –" if theirs is None else f"{theirs.last:.2f} | {theirs.to_70}"
        lines.append(
            f"| {method} | {accuracy} | {p} | {paired} | {speed} | {', '.join(ends)} "
            f"| {smallest} | {verdicts} | {said} |"
        )
    return "\n".join(lines)


def averaged(runs: Sequence[Row], method: str, colour: int) -> Curve:
    """Accuracy over epochs, the mean of the seeds."""
    values = np.mean([row["accuracy"] for row in runs], axis=0)
    return Curve(method, np.arange(1.0, len(values) + 1), values, colour=colour)


def panels(rows: Sequence[Row], methods: Sequence[str]) -> list[Curves]:
    """Accuracy over epochs (mean of the seeds) and the strength over steps (first seed), without and with norm."""
    found = []
    for net in PARTS[:2]:
        accuracies, strengths = [], []
        for colour, method in enumerate(methods):
            if not (runs := of(rows, net, method)):
                continue
            accuracies.append(averaged(runs, method, colour))
            trace = runs[0]["strength"]
            if trace["value"]:
                y = np.asarray(trace["value"], dtype=float)
                strengths.append(Curve(method, np.asarray(trace["step"], dtype=float), y, colour=colour))
        found.append(Curves(f"{net}: test accuracy", "epoch", "accuracy", tuple(accuracies), y_range=(0, 1.02)))
        found.append(
            Curves(
                f"{net}: strength", "step", "λ (weight_decay is 2λ)", tuple(strengths), log_y=True, stairs=True,
                keyed="never",
            )
        )  # fmt: skip
    return found


def tables(folder: Path) -> dict[str, str]:
    """Those of every results file."""
    found = {}
    for asked in recorded_in(folder):
        rows = Results(asked.results).recorded()
        parts = [table(rows, net) for net in PARTS if of(rows, net, "5e-4")]
        found[f"tables{asked.ending}.md"] = "\n\n".join(parts) + "\n"
    return found


def figures(folder: Path) -> dict[str, Drawing]:
    """Those of every results file."""
    return dict(_figures(folder))


def _figures(folder: Path) -> Iterator[tuple[str, Drawing]]:
    for asked in recorded_in(folder):
        rows = Results(asked.results).recorded()
        if long := [row for row in rows if row["net"] == LONG]:
            trained = dict.fromkeys(row["method"] for row in long)
            curves = [averaged(of(long, LONG, method), method, colour) for colour, method in enumerate(trained)]
            panel = Curves("batch-norm, four times as long: test accuracy", "epoch", "accuracy", tuple(curves))
            yield f"long{asked.ending}.png", drawn([panel], STYLE)
        for name, methods in FIGURES.items():
            yield f"{name}{asked.ending}.png", drawn(panels(rows, methods), STYLE)
