"""The levels of another study's nets, predicted by those who have not seen them (two core-minutes).

The nets and trainings are those of analyses/strong_regularization, whose levels the product's search found; probes are
planned, run and read as `gradscope suggest` does. They are read once more by a reader that has seen no family of their
kind. The optimizers of the other documents' studies have no reader, or their runs tell of no level.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Results, Row
from analyses.common.study import ANALYSES, Options
from analyses.prediction.data import Case
from analyses.prediction.fit import fitted, interval
from analyses.prediction.held_out import Found
from analyses.strong_regularization.plan import cell
from analyses.strong_regularization.training import run
from gradscope.prediction import level_reader
from gradscope.prediction.ask_tell import SPREAD, Prober
from gradscope.prediction.branches import BranchProber
from gradscope.prediction.features import features
from gradscope.prediction.level_reader import Reader, shipped
from gradscope.prediction.probing import of_function, probed

FILE, DELAYED = "documents.jsonl", "documents_delayed.jsonl"
SEARCHED = ANALYSES / "strong_regularization" / "results"
#: Data set, net and penalties, cheap ones first.
NETS = (
    ("digits", "mlp6", "l2 l1"), ("digits", "mlp10", "l2 l1"), ("digits", "mlp16", "l2 l1"),
    ("pairs", "alexnet", "l2 l1"), ("pairs", "vgg11", "l2 l1"), ("pairs", "vgg16", "l2"),
)  # fmt: skip
#: The families of the reader that a net belongs to.
KIN = {
    "digits": ("mlp-shallow", "mlp-deep", "mlp-pairs", "wide", "smooth"), "pairs": ("conv", "images", "mlp-pairs"),
}  # fmt: skip


def cells(asked: Options) -> list[Cell]:
    """One a net and penalty."""
    return [{"dataset": d, "net": net, "penalty": p} for d, net, those in NETS for p in those.split()]


def cells_delayed(asked: Options) -> list[Cell]:
    """One a net, of its delayed level under L2."""
    return [{"dataset": d, "net": net, "penalty": "l2", "delayed": True} for d, net, _ in NETS]


def trial(net: str, penalty: str, asked: Options, strength: float, seed: int, path: Path) -> None:
    """One training of the other study, with seeds that no other has had; it ends once a probe has its rows."""
    run(cell(net, penalty, strength, "constant", 20_000 + seed), asked, path, sparse=False)


def suggested(wanted: Cell, asked: Options) -> Row:
    """What the product predicts of one net, and what its probes showed."""
    here = Options(wanted["dataset"], "small", 1, "cpu", asked.data, 1, "local", (), Path())
    delayed = wanted.get("delayed", False)
    prober = (BranchProber if delayed else Prober)(shipped(level_reader.DELAYED if delayed else level_reader.FILE),
                                                   wanted["penalty"])  # fmt: skip
    train = functools.partial(trial, wanted["net"], wanted["penalty"], here)
    with tempfile.TemporaryDirectory() as folder:
        results = probed(prober, of_function(train), Path(folder), lambda _: None)
    said = prober.prediction()
    return {
        "determined": said.determined, "reason": said.reason, "tolerance": said.tolerance, "low": said.low,
        "high": said.high, "steps_run": sum(r.steps for r in results), "horizon": prober.horizon, "late": prober.late,
        "kind": prober.free[0].kind, "delay": results[-1].delay,
        "probes": [
            {"strength": probe.strength, "distance": round(distance, 4),
             "features": [float(f"{x:.6g}") for x in features(probe)]}
            for probe, distance in prober.told
        ],
    }  # fmt: skip


def read_again(row: Row, reader: Reader) -> float:
    """log₁₀ of the level that another reader tells from the same probes, weighed as the prober does."""
    read = np.array([reader.read(np.array(probe["features"])) for probe in row["probes"]])
    at = np.log10([probe["strength"] for probe in row["probes"]]) - read
    weights = (SPREAD[0] + SPREAD[1] * np.abs(read)) ** -2
    return float((at * weights).sum() / weights.sum())


def measured(dataset: str) -> dict[tuple[str, str], Row]:
    """What the search found, by net and penalty."""
    rows = Results(SEARCHED / f"small-{dataset}.jsonl").rows()
    return {(r["net"], r["penalty"]): r for r in rows if r.get("search")}


def without(known: Sequence[Case], dataset: str) -> Reader:
    """The reader of all families but those of this kind."""
    return fitted([case for case in known if case.configuration.family not in KIN[dataset]])


def shown(level: float, low: float, high: float) -> str:
    """A level with its interval."""
    return f"{level:.3g} ({low:.3g}-{high:.3g})"


def told(found: Found, folder: Path) -> str:
    """The table."""
    readers: dict[tuple[str, str], tuple[Reader, float]] = {}
    lines, errors, apart, inside, steps = [], [], [], [], []
    silent = []
    for row in Results(folder / FILE).rows():
        search = measured(row["dataset"])[row["net"], row["penalty"]]
        level = shown(search["tolerance"], search["low"], search["high"])
        name = [row["net"], row["penalty"]]
        if not row["determined"]:
            lines.append([*name, level, "–", "–", "–", "–", row["steps_run"], search["steps_run"], row["horizon"]])
            silent.append(row)
            continue
        at = (row["kind"], row["dataset"])
        if at not in readers:
            known, results, _ = found[row["kind"]]
            readers[at] = without(known, row["dataset"]), interval([r.error for r in results])
        again = read_again(row, readers[at][0])
        mine = math.log10(search["tolerance"])
        errors.append(math.log10(row["tolerance"]) - mine)
        apart.append(again - mine)
        inside.append(row["low"] <= search["tolerance"] <= row["high"])
        steps.append(row["steps_run"] / search["steps_run"])
        lines.append([*name, level, shown(row["tolerance"], row["low"], row["high"]), f"{errors[-1]:+.2f}",
                      f"{10**again:.3g}", f"{apart[-1]:+.2f}", row["steps_run"], search["steps_run"],
                      row["horizon"]])  # fmt: skip
    columns = ["net", "penalty", "measured", "predicted", "error", "by a reader without its kind", "error", "steps",
               "steps of the search", "steps of a run"]  # fmt: skip
    text = ["Written by `python -m analyses plot prediction` from documents.jsonl and the searches of "
            "strong_regularization (with their 95 % intervals; errors in decades).", "",
            markdown(columns, lines), "", f"{len(errors)} predicted, {len(silent)} not.", ""]  # fmt: skip
    text += [f"Not told: {row['net']}, {row['penalty']}: {row['reason']}." for row in silent]
    if errors:
        for way, some in (("As `suggest` says it", errors), ("By a reader without their kind", apart)):
            sizes = np.abs(some)
            text.append(f"{way}: median error {np.median(sizes):.3f} decades, within 1.2x "
                        f"{int((sizes <= math.log10(1.2)).sum())}, within 1.5x {int((sizes <= math.log10(1.5)).sum())} "
                        f"of {len(some)}.")  # fmt: skip
        text.append(f"The measured level lies in {sum(inside)} of {len(inside)} intervals; the probes took "
                    f"{np.median(steps):.0%} of the search's steps in the median.")  # fmt: skip
    return "\n".join([*text, ""])


def told_delayed(folder: Path) -> str:
    """The table of delayed levels."""
    lines, errors, inside, silent = [], [], [], []
    for row in Results(folder / DELAYED).rows():
        search = measured(row["dataset"])[row["net"], row["penalty"]]
        level = shown(search["delayed_tolerance"], search["delayed_low"], search["delayed_high"])
        first = [row["net"], f"{search['tolerance']:.3g}", level]
        last = [row["delay"], row["steps_run"], search["steps_run"], row["horizon"]]
        if not row["determined"]:
            lines.append([*first, "–", "–", *last])
            silent.append(row)
            continue
        errors.append(math.log10(row["tolerance"] / search["delayed_tolerance"]))
        inside.append(row["low"] <= search["delayed_tolerance"] <= row["high"])
        lines.append([*first, shown(row["tolerance"], row["low"], row["high"]), f"{errors[-1]:+.2f}", *last])
    columns = ["net", "level from the start", "delayed level, measured", "predicted", "error", "delay", "steps",
               "steps of the search for both levels", "steps of a run"]  # fmt: skip
    text = [
        "Written by `python -m analyses plot prediction` from documents_delayed.jsonl and the searches of "
        "strong_regularization, L2 (with 95 % intervals; errors in decades).",
        "",
        markdown(columns, lines),
        "",
    ]
    text += [f"Not told: {row['net']}: {row['reason']}." for row in silent]
    if errors:
        sizes = np.abs(errors)
        text.append(
            f"Median error {np.median(sizes):.3f} decades, within 1.2x {int((sizes <= math.log10(1.2)).sum())}, within "
            f"1.5x {int((sizes <= math.log10(1.5)).sum())} of {len(sizes)}. The measured level lies in {sum(inside)} "
            f"of {len(inside)} intervals."
        )
    return "\n".join([*text, ""])
