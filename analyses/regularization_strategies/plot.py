"""Tables and figures from what was trained."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyses.common.pictures import drawn
from analyses.common.results import Results, Row
from analyses.common.statistics import mean, p_value
from analyses.common.study import Drawing, recorded_in
from analyses.regularization_strategies.strategies import LONGER, LONGEST, READINGS, STRATEGIES, TABLE_1
from analyses.regularization_strategies.training import ATTACKS
from gradscope.report.curves import Curve, Curves, Level
from gradscope.report.figures import figure_of, save
from gradscope.report.strengths import Sample, accuracy_against_strength
from gradscope.report.style import STYLES

STYLE = replace(STYLES["screen"], dpi=85)
#: What the document reports on CIFAR-10, one run each: accuracy and precision (its Tables 2 and 3).
REPORTED = {
    "none": (0.7785, 0.77896),
    "L1": (0.7841, 0.78399),
    "L2": (0.8005, 0.79902),
    "L1L2": (0.7923, 0.79272),
    "augmentation": (0.8301, 0.82933),
    "noise": (0.7803, 0.78409),
    "early stopping": (0.7789, 0.77789),
    "dropout": (0.7961, 0.79751),
    "FGSM": (0.777, 0.77787),
    "combination": (0.8481, 0.84854),
    "L2 1e-1": (0.1, 0.01),
    "L2 1e-2": (0.5173, 0.504229),
    "L2 1e-4": (0.7759, 0.77536),
}
#: Kernel strengths of L2, Table 3; L2 of Table 1 is 1e-3.
STRENGTHS = {"L2 1e-1": 1e-1, "L2 1e-2": 1e-2, "L2": 1e-3, "L2 1e-4": 1e-4}


def of(rows: Sequence[Row], strategy: str) -> list[Row]:
    """The runs of a strategy, one a seed."""
    return [row for row in rows if row["strategy"] == strategy]


def read(rows: Sequence[Row], strategy: str, weights: str, images: str, measure: str = "accuracy") -> list[float]:
    """One number a run: ``weights`` best or last, ``images`` training, validation or unseen.

    At paper scale nothing is left unseen: there validation stands for it, as in the document.
    """
    return [float(row[weights].get(images, row[weights]["validation"])[measure]) for row in of(rows, strategy)]


def table_2(rows: Sequence[Row], names: Sequence[str], plainly: str = "none") -> list[str]:
    """Accuracies and precision beside those of the document, with the difference to ``plainly``, no regularization."""
    head = ["strategy", "document: accuracy, precision", "runs", "best weights, images that chose them",
            "best weights, unseen", "precision, unseen", "last weights, unseen", "training",
            "unseen, against none (p)", "epochs", "verdicts"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    plain = read(rows, plainly, "best", "unseen")
    for name in names:
        if not of(rows, name):
            lines.append(f"| {name} |" + " missing |" * (len(head) - 1))
            continue
        ours = read(rows, name, "best", "unseen")
        change = f"{mean(ours).value - mean(plain).value:+.3f} ({p_value(ours, plain):.2g})" if plain else ""
        verdicts = sorted({str(row["diagnosis"]["verdict"]) for row in of(rows, name)})
        cells = [
            name,
            ", ".join(f"{value:.4f}" for value in REPORTED[name]) if name in REPORTED else "",
            str(len(ours)),
            str(mean(read(rows, name, "best", "validation"))),
            str(mean(ours)),
            str(mean(read(rows, name, "best", "unseen", "precision"))),
            str(mean(read(rows, name, "last", "unseen"))),
            str(mean(read(rows, name, "last", "training"))),
            "" if name == plainly else change,
            f"{np.mean([row['epochs'] for row in of(rows, name)]):.3g}",
            ", ".join(verdicts),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def attacks(rows: Sequence[Row]) -> list[str]:
    """Accuracy of the best weights on FGSM examples."""
    lines = ["| strategy | " + " | ".join(f"ε = {e:g}" for e in ATTACKS) + " |", "|---" * (len(ATTACKS) + 1) + "|"]
    for name in (name for name in STRATEGIES if of(rows, name)):
        values = [mean([float(row["attacked"][str(e)]) for row in of(rows, name)]) for e in ATTACKS]
        lines.append(f"| {name} | " + " | ".join(str(value) for value in values) + " |")
    return lines


def strategies_figure(rows: Sequence[Row]) -> tuple[Curves, list[str]]:
    """Table 2 as a picture: what each strategy changes against none, here and in the document; and the names."""
    names = [name for name in (*TABLE_1, *READINGS) if name != "none" and of(rows, name)]
    x = np.arange(len(names), dtype=float)
    curves = []
    for label, more in (("here", ""), ("here, three times the epochs", ", longer")):
        plain = read(rows, f"none{more}", "best", "unseen")
        found = [mean(read(rows, f"{name}{more}", "best", "unseen")) for name in names]
        y = np.array([m.value for m in found]) - (np.mean(plain) if plain else np.nan)
        half = np.array([m.half_width for m in found])
        curves.append(Curve(label, x, y, low=y - half, high=y + half))
    reported = [REPORTED.get(name.removesuffix(" without whitening")) for name in names]
    theirs = np.array([np.nan if pair is None else pair[0] - REPORTED["none"][0] for pair in reported])
    curves.append(Curve("document, CIFAR-10", x, theirs))
    return Curves(
        "Table 2: accuracy (best weights; here on unseen images) against none", "", "difference", tuple(curves),
        points=True, levels=(Level("none", 0.0),), y_range=(-0.15, 0.14),
    ), names  # fmt: skip


def draw_strategies(rows: Sequence[Row], path: Path) -> None:
    """Draw Table 2."""
    summary, names = strategies_figure(rows)
    made = figure_of([summary], STYLE)
    made.set_size_inches(9, 4.2)
    axes = made.axes[0]
    for line in axes.lines:
        if line.get_marker() not in ("None", None):  # strategies have no order: points without lines between them
            line.set_linestyle("none")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    for place, value in zip(summary.curves[0].x, summary.curves[0].y, strict=True):
        if value < -0.15:  # below the picture
            axes.annotate(f"{value:+.2f} ↓", (place, -0.148), ha="center", fontsize=9, color=STYLE.colours[0])
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    save(made, path, STYLE)


def figures(folder: Path) -> dict[str, Drawing]:
    """Table 2; Table 3 with its traces, and the attacks."""
    found: dict[str, Drawing] = {}
    for asked in recorded_in(folder):
        rows = Results(asked.results).recorded()
        found[f"table2{asked.ending}.png"] = functools.partial(draw_strategies, rows)
        panels = [strengths_figure(rows), *traces(rows), attacked_figure(rows)]
        found[f"table3{asked.ending}.png"] = drawn(panels, STYLE)
    return found


def strengths_figure(rows: Sequence[Row]) -> Curves:
    """Table 3: accuracy against the strength of L2 on the weights, λ of Ω = ‖w‖²."""
    pairs = [(STRENGTHS[name], value) for name in STRENGTHS for value in read(rows, name, "best", "unseen")]
    plain = read(rows, "none", "best", "unseen")
    x, y = np.array([*pairs, *((0.0, value) for value in plain)]).T
    document = [REPORTED[name][0] for name in STRENGTHS]
    samples = [
        Sample.of("here", x, y),
        Sample.of("document", [*STRENGTHS.values(), 0], [*document, REPORTED["none"][0]]),
    ]
    return accuracy_against_strength(samples, penalty="l2")


def traces(rows: Sequence[Row]) -> list[Curves]:
    """From the records of the first seed: the loss gradient's share, and the weights, at each strength of L2."""
    kept = {name: row for name in STRENGTHS for row in of(rows, name) if "traces" in row}
    titles = (("proportion", "The loss gradient's share", "Σ|g| / (Σ|g| + Σ|r|)"), ("weight", "Weights", "mean |w|"))
    panels = []
    for quantity, title, label in titles:
        curves = []
        for name, row in kept.items():
            x, y = (np.array(row["traces"][quantity][k], dtype=float) for k in ("step", "value"))
            curves.append(Curve(f"λ = {STRENGTHS[name]:g}", x, y, failed=bool(row["diagnosis"]["failed"])))
        panels.append(Curves(title, "optimizer step", label, tuple(curves), log_y=quantity == "weight"))
    return panels


def attacked_figure(rows: Sequence[Row]) -> Curves:
    """Accuracy under attack of what the document claims to be robust, beside none and the best of the others."""
    epsilon = np.array(ATTACKS)
    curves = []
    for name in ("none", "FGSM", "FGSM 0.1", "dropout", "L2"):
        if runs := of(rows, name):
            values = [[float(row["attacked"][str(e)]) for row in runs] for e in ATTACKS]
            found = [mean(value) for value in values]
            curves.append(Curve(name, epsilon, np.array([m.value for m in found])))
    return Curves("Under attack (FGSM)", "ε, standard deviations of the pixels", "accuracy", tuple(curves), log_x=True,
                  points=True)  # fmt: skip


def tables(folder: Path) -> dict[str, str]:
    """Of every results file."""
    found = {}
    for asked in recorded_in(folder):
        text = [
            f"Written by `python -m analyses plot regularization_strategies` from {asked.results.name}. "
            "Means over seeds with 95 % intervals (Student's t); p of Welch's two-sided t-test."
        ]
        for title, lines in sections(Results(asked.results).recorded()).items():
            text += ["", f"## {title}", "", *lines]
        found[f"tables{asked.ending}.md"] = "\n".join(text) + "\n"
    return found


def sections(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The lines under each title."""
    return {
        "Tables 1 and 2": table_2(rows, list(TABLE_1)),
        "Table 3": table_2(rows, list(STRENGTHS)),
        "Other readings": table_2(rows, list(READINGS)),
        "Three times the epochs": table_2(rows, list(LONGER), "none, longer"),
        "Ten times the epochs": table_2(rows, list(LONGEST), "none, longest"),
        "Accuracy under attack (FGSM), best weights": attacks(rows),
    }
