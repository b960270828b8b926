"""The figures, from what was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analyses.common.pictures import drawn
from analyses.common.results import Results, Row
from analyses.common.study import Drawing, recorded_in
from analyses.strong_regularization.plan import AUTO, Setup, setup
from analyses.strong_regularization.reading import alike, chosen, sample
from gradscope.report.curves import Curve, Curves
from gradscope.report.strengths import Sample, accuracy_against_sparsity, accuracy_against_strength
from gradscope.report.style import STYLES

STYLE = replace(STYLES["screen"], dpi=76)


def compared(rows: Sequence[Row], net: str, penalty: str, plan: Setup) -> list[Sample]:
    """Baseline and delays, as far as there are runs; what has fewer seeds than the baseline names them."""
    names = {"constant": "baseline", plan.delayed: f"delayed, γ = {plan.gamma}", AUTO: AUTO}
    seeds = {
        one: sorted({row["seed"] for row in chosen(rows, net=net, penalty=penalty, schedule=one)}) for one in names
    }
    samples = []
    for one in ("constant", *plan.delays):
        few = f", seed {', '.join(map(str, seeds[one]))}" if len(seeds[one]) < len(seeds["constant"]) else ""
        samples.append(sample(rows, names[one] + few, net, penalty, one))
    return [one for one in samples if len(one.value)]


def against_strength(rows: Sequence[Row], net: str, penalty: str, plan: Setup) -> Curves | None:
    """A panel of Figures 1, 3, 4, 6, 7; None without runs."""
    samples = compared(rows, net, penalty, plan)
    if not samples:
        return None
    none = sample(rows, "", net, "none", "constant")
    word = penalty.partition("-")[0]
    drawn = accuracy_against_strength([*samples, none] if len(none.value) else samples, penalty=word)
    return replace(drawn, title=f"{net}, {penalty}")


def against_sparsity(rows: Sequence[Row], net: str, penalty: str, plan: Setup) -> Curves | None:
    """Figures 3c and 7d to f."""
    samples = compared(rows, net, penalty, plan)
    return replace(accuracy_against_sparsity(samples), title=f"{net}, {penalty}") if samples else None


def over_epochs(runs: Sequence[tuple[str, Row]], name: str, title: str, y_label: str, log: bool = False) -> Curves:
    """One quantity of some runs, epoch by epoch."""
    curves = []
    for label, row in runs:
        y = np.asarray(row[name], dtype=np.float64)
        curves.append(Curve(label, np.arange(1.0, len(y) + 1), y, failed=row["failed"]))
    return Curves(title, "epoch", y_label, tuple(curves), log_y=log)


def inside(rows: Sequence[Row], plan: Setup, penalty: str) -> list[Curves]:
    """Figures 1c, 2 and 5: loss, gradients, weights and proportion below and above the tolerance level, seed 0."""
    strong = plan.strong[penalty]
    moderate = max(s for s in plan.grids[penalty] if s < strong / 2)
    runs: list[tuple[str, Row]] = []
    for strength, schedule in ((moderate, "constant"), (strong, "constant"), (strong, plan.delays[0])):
        found = chosen(rows, net=plan.main, penalty=penalty, strength=strength, schedule=schedule, seed=0)
        runs += [(f"λ = {strength:g}, {schedule}", row) for row in found]
    if not runs:
        return []
    name = f"{plan.main}, {penalty}"
    return [
        over_epochs(runs, "losses", f"{name}: training loss", "cross-entropy"),
        over_epochs(runs, "gradients", "Loss gradients", "mean |∂L/∂w|", log=True),
        over_epochs(runs, "weights", "Weights", "mean |w|", log=True),
        over_epochs(runs, "proportions", "Share of the loss in all gradients", "proportion"),
    ]


def to_the_end(series: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Series of runs, [runs, epochs]; one that was ended early stays at its last value."""
    longest = max(len(one) for one in series)
    return np.array([[*one, *[one[-1]] * (longest - len(one))] for one in series], dtype=np.float64)


def by_schedule(rows: Sequence[Row], net: str, penalty: str, strength: float) -> list[Curves]:
    """Accuracy by epoch, the mean over seeds that all have, of every schedule at one strength: delays, and others."""
    found = [r for r in chosen(rows, net=net, penalty=penalty) if r["strength"] == strength]
    found = alike([*found, *(r for r in chosen(rows, net=net, penalty=penalty) if r["schedule"].startswith("cpr"))])
    texts = sorted({row["schedule"] for row in found}, key=lambda text: (len(text), text))
    late = [text for text in texts if text.startswith("delayed")]
    split = len(texts) > len(STYLE.colours)  # lines that look alike tell nothing
    panels = []
    for name, shown in (("delays", late), ("others", [text for text in texts if text not in late])):
        curves = []
        for schedule in shown if split else texts:
            some = [row for row in found if row["schedule"] == schedule]
            y = np.mean(to_the_end([row["accuracies"] for row in some]), axis=0)
            all_fail = all(row["failed"] for row in some)
            curves.append(Curve(schedule, np.arange(1.0, len(y) + 1), y, failed=all_fail))
        title = f"{net}, {penalty}, λ = {strength:g}" + (f": {name}" if split else "")
        panels.append(Curves(title, "epoch", "accuracy", tuple(curves), y_range=(-0.02, 1.02)))
    return panels[: 1 + split] if texts else []


def products(rows: Sequence[Row]) -> list[Curves]:
    """Equations 3 to 7: gradients of each layer against products of norms, in a collapse; slopes in the labels."""
    panels = []
    for row in (row for row in rows if row.get("layers")):
        for x, slope, what in (("x_later", "later", "later"), ("x", "others", "all other")):
            found = [layer for layer in row["of_layers"] if layer.get(slope) is not None]
            places = [(k / max(1, len(found) - 1), layer) for k, layer in enumerate(found)]
            curves = tuple(
                Curve(
                    f"{k + 1}: {layer[slope]:.2f}", 10 ** np.asarray(layer[x]), 10 ** np.asarray(layer["y"]), colour=k
                )
                for k, (_, layer) in enumerate(places)
            )
            biases = "" if row.get("biases", True) else ", without biases"
            panels.append(Curves(
                f"{row['net']}{biases}", f"product of the norms of {what} layers", "‖∂L/∂W‖ of a layer", curves,
                log_x=True, log_y=True, legend="layer: slope", x_range=_with_room(curves),
            ))  # fmt: skip
    return panels


def _with_room(curves: Sequence[Curve]) -> tuple[float, float]:
    """A logarithmic axis with a place for the legend, right of the lines."""
    low, high = min(curve.x.min() for curve in curves), max(curve.x.max() for curve in curves)
    return float(low), float(high * (high / low) ** 0.4)


def figures(rows: Sequence[Row], plan: Setup) -> dict[str, list[Curves | None]]:
    """The panels of every figure by its name; None where nothing was trained."""

    def three(net: str) -> list[Curves | None]:
        both = [against_strength(rows, net, penalty, plan) for penalty in ("l2", "l1")]
        return [*both, against_sparsity(rows, net, "l1", plan)]

    def of_depth(penalty: str, draw: Callable[..., Curves | None]) -> list[Curves | None]:
        panels = [draw(rows, net, penalty, plan) for net in plan.depth]
        return panels if sum(panel is not None for panel in panels) > 1 else []

    return {
        "figure3": three(plan.main),
        "figure4": [panel for net in plan.second for panel in three(net)],
        "figure6": of_depth("l2", against_strength),
        "figure7": of_depth("l1", against_strength) + of_depth("l1", against_sparsity),
        "figure2_5_l2": [*inside(rows, plan, "l2")],
        "figure2_5_l1": [*inside(rows, plan, "l1")],
        "subgradient": [against_strength(rows, plan.main, penalty, plan) for penalty in ("l1", "l1-subgradient")]
        if chosen(rows, penalty="l1-subgradient") else [],
        **{f"schedules_{p}": [*by_schedule(rows, plan.main, p, strength)] for p, strength in plan.strong.items()},
        "equations": [*products(rows)],
    }  # fmt: skip


def drawings(folder: Path) -> dict[str, Drawing]:
    """Every figure of each scale and data set of which something was trained."""
    return {
        f"{name}-{asked.results.stem}.png": drawn(shown, STYLE)
        for asked in recorded_in(folder)
        for name, panels in figures(Results(asked.results).recorded(), setup(asked)).items()
        if (shown := [panel for panel in panels if panel is not None])
    }
