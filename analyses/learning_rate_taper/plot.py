"""Figures 1 to 6 and their tables, from what was trained."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analyses.common.results import Results, Row
from analyses.common.statistics import mean, p_value
from analyses.common.study import SCALES, Drawing, recorded_in
from analyses.learning_rate_taper.protocol import (
    DEEP,
    FIXED,
    LONG,
    LONGER,
    PAPER,
    RATES,
    READINGS,
    SHALLOW,
    SMALL,
    SPARSE,
    TAPERED,
    WEAKEST,
    Protocol,
    schedule,
)
from gradscope.report.style import COLOURS

#: number: whether of the set with a hundred classes, layers, settings, readings.
DECAYS = (*TAPERED, *FIXED)
FIGURES = {
    1: (False, SHALLOW, DECAYS, (*READINGS, LONG)),
    2: (False, DEEP, DECAYS, tuple(READINGS)),
    3: (True, SHALLOW, DECAYS, tuple(READINGS)),
    4: (True, DEEP, DECAYS, tuple(READINGS)),
    5: (False, DEEP, ("fixed 1e-4", *SPARSE), ("table",)),
    6: (True, SHALLOW, ("fixed 1e-4", *SPARSE), ("table",)),
}
COLOUR = dict(
    zip(
        (*DECAYS, *SPARSE),
        (COLOURS[1], COLOURS[4], COLOURS[0], COLOURS[2], COLOURS[3], COLOURS[6], *COLOURS[1:4]),
        strict=True,
    )
)


def chosen(rows: Sequence[Row], layers: int, setting: str, reading: str) -> list[Row]:
    """The runs of one setting, one a seed."""
    return [r for r in rows if (r["layers"], r["setting"], r["reading"]) == (layers, setting, reading)]


def ends(runs: Sequence[Row], phase: int, quantity: str) -> list[float]:
    """What the runs came to at the end of a phase (0 to 2): ``loss`` or ``error``."""
    return [float(r["ends"][phase][quantity]) for r in runs]


def label(setting: str, reading: str, how: Protocol) -> str:
    """A setting with the decays that acted, in PyTorch's ``weight_decay``."""
    if setting in SPARSE:
        return f"{setting}: {SPARSE[setting].sparse:.0%} held back"
    planned = schedule({**TAPERED, **FIXED}[setting], reading, how)
    first, last = (2 * planned.at(learning_rate=rate, highest_rate=RATES[0]) for rate in (RATES[0], RATES[-1]))
    return f"{setting}: {first:.3g}" + (f" to {last:.3g}" if last != first else "")


def draw(axes: Axes, rows: Sequence[Row], number: int, reading: str, column: int, how: Protocol) -> None:
    """Mean and range over the runs of a figure's settings, by epoch; ``column``: 1 test loss, 2 test error."""
    _, layers, settings, _ = FIGURES[number]
    for setting in settings:
        runs = chosen(rows, layers, setting, reading)
        if not runs:
            continue
        values = np.array([[row[column] for row in run["curve"]] for run in runs])
        epoch = np.arange(1, values.shape[1] + 1)
        wide = 1.6 if setting in TAPERED else 1.0
        axes.plot(epoch, values.mean(0), color=COLOUR[setting], linewidth=wide, label=label(setting, reading, how))
        axes.fill_between(epoch, values.min(0), values.max(0), color=COLOUR[setting], alpha=0.12, linewidth=0)
    for end in how.ends[:-1]:
        axes.axvline(end + 0.5, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(("test loss, nats", "test error")[column - 1])
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def drawable(rows: Sequence[Row], number: int) -> list[str]:
    """The readings of a figure of which something was trained."""
    _, layers, settings, readings = FIGURES[number]
    return [r for r in readings if any(chosen(rows, layers, s, r) for s in settings)]


def figure(rows: Sequence[Row], number: int, how: Protocol, name: str, path: Path) -> None:
    """Draw one of the document's figures: test loss and test error, a row a reading."""
    layers, readings = FIGURES[number][1], drawable(rows, number)
    made = Figure(figsize=(9.2, 3.1 * len(readings)), layout="constrained")
    FigureCanvasAgg(made)
    places = made.subplots(len(readings), 2, squeeze=False)
    for reading, (loss, error) in zip(readings, places, strict=True):
        for column, axes in enumerate((loss, error), start=1):
            draw(axes, rows, number, reading, column, LONGER if reading == LONG else how)
        which = "the table's, long runs" if reading == LONG else f"those of the {reading}"
        loss.set_title(f"Figure {number}: {layers} layers, {name}; decays: {which}", fontsize=9, loc="left")
        error.set_ylim(top=10)  # room for the legend
        error.legend(fontsize=7, loc="upper right", framealpha=0.6, edgecolor="none")
    made.savefig(path, dpi=64)


def table(rows: Sequence[Row], number: int, how: Protocol, name: str) -> list[str]:
    """Test loss and test error at the end of each phase: mean and, in brackets, best and worst run."""
    _, layers, settings, readings = FIGURES[number]
    lines = [f"## Figure {number}: {layers} layers, {name}", ""]
    lines += [
        "| decays of the | setting | runs | "
        + " | ".join(f"{q}, phase {k + 1}" for q in ("loss", "error") for k in range(3))
        + " |",
        "|---|" + "---|" * 8,
    ]
    for reading in readings:
        for setting in settings:
            runs = chosen(rows, layers, setting, reading)
            if reading == LONG and not runs:
                continue
            cells = [spread(ends(runs, k, q)) for q in ("loss", "error") for k in range(3)]
            how_long = LONGER if reading == LONG else how
            lines.append(
                f"| {reading} | {label(setting, reading, how_long)} | {len(runs)} | " + " | ".join(cells) + " |"
            )
    return [*lines, "", *comparisons(rows, number), ""]


def spread(values: Sequence[float]) -> str:
    """Mean [best, worst] of several runs, or that there is none."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "missing"
    return f"{np.mean(values):.4f} [{min(values):.4f}, {max(values):.4f}]"


def comparisons(rows: Sequence[Row], number: int) -> list[str]:
    """Each setting against the weakest fixed decay: differences of means at the end of phases 1 and 3, with p."""
    _, layers, settings, readings = FIGURES[number]
    lines = []
    for reading in readings:
        weakest = chosen(rows, layers, WEAKEST, reading)
        for setting in settings:
            runs = chosen(rows, layers, setting, reading)
            if setting == WEAKEST or not runs or not weakest:
                continue
            parts = []
            for phase in (0, 2):
                for quantity in ("loss", "error"):
                    ours, theirs = ends(runs, phase, quantity), ends(weakest, phase, quantity)
                    change = mean(ours).value - mean(theirs).value
                    parts.append(f"{quantity} {change:+.4f} (p {p_value(ours, theirs):.2g})")
            lines.append(
                f"* {reading}, {setting} against {WEAKEST}: after phase 1 {', '.join(parts[:2])}; "
                f"after phase 3 {', '.join(parts[2:])}."
            )
        gain = [ends(weakest, 2, q) for q in ("loss", "error")], [ends(weakest, 0, q) for q in ("loss", "error")]
        if weakest:
            changes = [mean(after).value - mean(before).value for after, before in zip(*gain, strict=True)]
            tests = [p_value(after, before) for after, before in zip(*gain, strict=True)]
            lines.append(
                f"* {reading}, {WEAKEST}, phase 3 against phase 1: loss {changes[0]:+.4f} (p {tests[0]:.2g}), "
                f"error {changes[1]:+.4f} (p {tests[1]:.2g})."
            )
    return lines


def trained(folder: Path) -> Iterator[tuple[str, int, str, Protocol, list[Row]]]:
    """For every figure of every scale of which there are rows: its ending, number, set, protocol and rows."""
    there = {asked.scale for asked in recorded_in(folder)}
    for scale in (scale for scale in SCALES if scale in there):
        for number, (many, *_) in FIGURES.items():
            name = (("cifar10", "cifar100") if scale == "paper" else ("digits", "pairs"))[many]
            how = PAPER if scale == "paper" else SMALL[name]
            rows = Results(folder / f"{scale}-{name}.jsonl").rows()
            yield "" if scale == "small" else f"-{scale}", number, name, how, rows


def tables(folder: Path) -> dict[str, str]:
    """One file a scale."""
    head = "Written by `python -m analyses plot learning_rate_taper` from the results: mean [best, worst run]; "
    found: dict[str, list[str]] = {}
    for ending, number, name, how, rows in trained(folder):
        text = found.setdefault(f"tables{ending}.md", [head + "Welch's t-test, two-sided.", ""])
        text += table(rows, number, how, name)
    return {name: "\n".join(text).rstrip() + "\n" for name, text in found.items()}


def figures(folder: Path) -> dict[str, Drawing]:
    """Those of which something was trained."""
    return {
        f"figure{number}{ending}.png": functools.partial(figure, rows, number, how, name)
        for ending, number, name, how, rows in trained(folder)
        if drawable(rows, number)
    }
