"""The document's tables beside ours, as Markdown, from the recorded results."""

from __future__ import annotations

from collections.abc import Sequence

from analyses.common.results import Row
from analyses.common.statistics import mean
from analyses.shapes_of_regularization.networks import IN_ORDER, NETS
from analyses.shapes_of_regularization.reported import ACCURACY, ACCURACY_TABLES, WEIGHT_TABLES, WEIGHTS

NAMES = {
    "none": "none", "l0": "L0", "l1": "L1", "l2": "L2", "l3": "L3", "linf": "L∞", "dropout": "dropout ⅓",
}  # fmt: skip


def of(rows: Sequence[Row], net: str, penalty: str, variant: str = "") -> list[Row]:
    """The runs of one cell, by seed. Without rows of its own, L0 is the run without a penalty, step for step."""
    found = [row for row in rows if (row["net"], row["penalty"], row["variant"]) == (net, penalty, variant)]
    if penalty == "l0" and not found:
        return of(rows, net, "none", variant)
    return sorted(found, key=lambda row: row["seed"])


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, as the document has it."""
    found = mean(values)
    return f"{found.value:.3f}" if found.count == 1 else f"{found.value:.3f} ± {found.std:.3f}"


def accuracies(rows: Sequence[Row], net: str) -> str:
    """Training and validation accuracy and their gap, with standard deviations over the seeds."""
    lines = [
        f"**Table {ACCURACY_TABLES[net]}, {net}** ({NETS[net].weights():,} weights)",
        "",
        "| | training | the document's | validation | the document's | gap | the document's | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for penalty in IN_ORDER:
        runs, theirs = of(rows, net, penalty), ACCURACY[net].get(penalty)
        ours = [[row["train"] for row in runs], [row["validation"] for row in runs]]
        ours.append([train - validation for train, validation in zip(*ours, strict=True)])
        shown = [_spread(values) if values else "–" for values in ours]
        said = ["–"] * 3 if theirs is None else [f"{theirs[k]:.3f} ± {theirs[k + 1]:.3f}" for k in (0, 2, 4)]
        parts = [part for pair in zip(shown, said, strict=True) for part in pair]
        if runs or theirs:
            lines.append(f"| {NAMES[penalty]} | {' | '.join(parts)} | {len(runs)} |")
    return "\n".join(lines)


def weights(rows: Sequence[Row], net: str) -> str:
    """Mean magnitude and small weights of the first seed, by the readings of the words, beside the document's."""
    experiment_1 = net == "shallow"
    lines = [
        f"**Table {WEIGHT_TABLES[net]}, {net}**",
        "",
        "| | mean \\|w\\| | mean, as it counts | the document's | \\|w\\| < 1e-3 | ratio | w < 1e-3 "
        "| zeros, as it counts | the document's | ratio | the document's |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = of(rows, net, "none")
    for penalty in IN_ORDER:
        runs, theirs = of(rows, net, penalty), WEIGHTS[net].get(penalty)
        if not runs or not plain:
            continue
        w, base = runs[0]["weights"], plain[0]["weights"]
        counted, averaged = ("below", "mean_abs_cut") if experiment_1 else ("as_counted", "mean_as_counted")
        said = ["–"] * 3
        if theirs is not None:
            said = [f"{theirs.mean:.3g}", str(theirs.zeros), f"{theirs.zeros / WEIGHTS[net]['none'].zeros:.2f}"]
        lines.append(
            f"| {NAMES[penalty]} | {w['mean_abs']:.3g} | {w[averaged]:.3g} | {said[0]} | {w['below']} "
            f"| {w['below'] / base['below']:.2f} | {w['signed']} | {w[counted]} | {said[1]} "
            f"| {w[counted] / base[counted]:.2f} | {said[2]} |"
        )
    return "\n".join(lines)


def sensitivity(rows: Sequence[Row]) -> str:
    """Validation accuracy, gap, and the ratio of small weights, of deep-32 under each variant of our choices."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = [
        "| choice | penalty | training | validation | gap | mean \\|w\\| | \\|w\\| < 1e-3 | ratio to none |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        plain = of(rows, "deep-32", "none", variant) or of(rows, "deep-32", "none")
        for penalty in ("none", "l1", "l2", "dropout"):
            if not (runs := of(rows, "deep-32", penalty, variant)):
                continue
            gaps = [row["train"] - row["validation"] for row in runs]
            small = mean([row["weights"]["below"] for row in runs]).value
            ratio = small / mean([row["weights"]["below"] for row in plain]).value if plain else float("nan")
            lines.append(
                f"| {variant or 'as chosen'} | {NAMES[penalty]} | {_spread([r['train'] for r in runs])} "
                f"| {_spread([r['validation'] for r in runs])} | {_spread(gaps)} "
                f"| {mean([r['weights']['mean_abs'] for r in runs]).value:.3g} | {small:.0f} | {ratio:.2f} |"
            )
    return "\n".join(lines)
