"""Tables and figures from what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyses.common.pictures import drawn
from analyses.common.results import Results, Row
from analyses.common.study import Drawing, recorded_in
from analyses.shapes_of_regularization.curves import deepest_dip
from analyses.shapes_of_regularization.networks import IN_ORDER, NETS
from analyses.shapes_of_regularization.tables import NAMES, accuracies, of, sensitivity, weights
from gradscope.recorder.kernels.magnitude_bins import HISTOGRAM_EDGES
from gradscope.regularizers.shapes import FAMILY, penalty_shape
from gradscope.report.curves import Curve, Curves
from gradscope.report.style import STYLES
from gradscope.report.weights import Shape, penalty_shapes

STYLE = replace(STYLES["screen"], dpi=100)  # small files
#: Drawn in the learning curves; the others look alike.
SHOWN = ("none", "l1", "dropout")


def shapes() -> list[Curves]:
    """The norms as penalties of one weight, their gradients, and their balls, from the classes that act in training."""
    found = [penalty_shape(name) for name in FAMILY]
    return penalty_shapes([Shape(s.name, s.w, s.value, s.gradient, *s.ball) for s in found])


def learning_curves(rows: Sequence[Row], net: str) -> list[Curves]:
    """Losses and accuracies of the first seed over steps; colours are penalties, dashes validation."""
    losses: list[Curve] = []
    shares: list[Curve] = []
    for colour, penalty in enumerate(SHOWN):
        if not (runs := of(rows, net, penalty)):
            continue
        curve = runs[0]["curve"]
        at = np.asarray(curve["at"], dtype=float)
        for name, into in (("loss", losses), ("validation_loss", losses), ("train", shares), ("validation", shares)):
            if name in curve:
                validation = name.startswith("validation")
                label = NAMES[penalty] + (", validation" if validation else ", training")
                into.append(Curve(label, at, np.asarray(curve[name]), colour=colour, dash=int(validation)))
    return [
        Curves(f"{net}: loss", "step", "loss, nats", tuple(losses), keyed="never"),
        Curves(f"{net}: accuracy", "step", "accuracy", tuple(shares), y_range=(0, 1.02)),
    ]


def histograms(rows: Sequence[Row], net: str) -> Curves:
    """The share of weights of each size at the end, first seed."""
    found = []
    for colour, penalty in enumerate(IN_ORDER):
        if penalty != "l0" and (runs := of(rows, net, penalty)):
            counts = np.asarray(runs[0]["histogram"])  # of zeros, then from bin to bin
            x, y = np.asarray(HISTOGRAM_EDGES), counts[2:] / counts.sum()
            zeros = runs[0]["weights"]["zeros"]
            label = NAMES[penalty] + (f" ({zeros} are 0)" if zeros else "")
            found.append(Curve(label, x, y, colour=colour))
    return Curves(
        f"{net}: sizes of the weights", "|w|", "share, per factor of 4", tuple(found), log_x=True, stairs=True,
        x_range=(1e-6, 4),
    )  # fmt: skip


def enrichment(rows: Sequence[Row]) -> list[Curves]:
    """How many times more small weights L1 and L2 leave than no penalty, against what counts as small."""
    panels = []
    for penalty in ("l1", "l2"):
        lines = []
        for colour, net in enumerate(NETS):
            ours, plain = of(rows, net, penalty), of(rows, net, "none")
            if ours and plain:
                small, base = (runs[0]["weights"]["below_by_threshold"] for runs in (ours, plain))
                kept = [name for name in small if base[name]]
                x, y = [float(name) for name in kept], [small[name] / base[name] for name in kept]
                lines.append(Curve(net, np.array(x), np.array(y), colour=colour))
        title = f"{NAMES[penalty]}: weights below a threshold"
        panels.append(
            Curves(title, "threshold on |w|", "times as many as without", tuple(lines), True, True, points=True)
        )
    return panels


def dips(rows: Sequence[Row]) -> str:
    """The deepest valley of training and of validation accuracy of every net, under the penalties that are drawn."""
    lines = [
        "| net | penalty | seed | validation before, at, after | steps | depth | training falls by | new heights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for net in NETS:
        for penalty in SHOWN:
            for row in of(rows, net, penalty):
                curve = row["curve"]
                dip = deepest_dip(curve["at"], curve["validation"])
                training = deepest_dip(curve["at"], curve["train"])
                lines.append(
                    f"| {net} | {NAMES[penalty]} | {row['seed']} | {dip.before:.3f}, {dip.at:.3f}, {dip.after:.3f} "
                    f"| {dip.where[0]}, {dip.where[1]} | {dip.depth:.3f} | {training.depth:.3f} "
                    f"| {'yes' if dip.to_new_heights else 'no'} |"
                )
    return "\n".join(lines)


def text(rows: Sequence[Row]) -> str:
    """All tables of a scale."""
    plain = [row for row in rows if not row["variant"]]
    parts = [make(plain, net) for net in NETS for make in (accuracies, weights)]
    parts += ["**Valleys of the learning curves**", dips(plain)]
    if any(row["variant"] for row in rows):
        parts += ["**Sensitivity, deep-32**", sensitivity(rows)]
    verdicts = sorted(
        {f"{row['net']} {row['penalty']}: {row['verdict']}" for row in plain if row["verdict"] != "healthy"}
    )
    parts.append("Not healthy by the judge: " + ("; ".join(verdicts) or "none") + ".")
    return "\n\n".join(parts) + "\n"


def tables(folder: Path) -> dict[str, str]:
    """One file a scale."""
    return {f"tables-{asked.scale}.md": text(Results(asked.results).recorded()) for asked in recorded_in(folder)}


def figures(folder: Path) -> dict[str, Drawing]:
    """Of both scales, as far as they were trained."""
    return {name: drawn(panels, STYLE) for name, panels in _figures(folder)}


def _figures(folder: Path) -> Iterator[tuple[str, list[Curves]]]:
    yield "shapes.png", shapes()
    for asked in recorded_in(folder):
        rows = Results(asked.results).recorded()
        trained = [net for net in NETS if of(rows, net, "none")]
        deep = [net for net in ("deep-32", "deep-256") if net in trained]
        yield f"curves-{asked.scale}.png", [panel for net in deep for panel in learning_curves(rows, net)]
        yield f"weights-{asked.scale}.png", [histograms(rows, net) for net in trained]
        yield f"enrichment-{asked.scale}.png", enrichment(rows)
