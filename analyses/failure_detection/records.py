"""The runs that have been trained: their labels from runs.csv, what the judge saw of them from the cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.common.results import Results
from gradscope.diagnosis.run_prefix import look_after
from gradscope.diagnosis.series import Series, network_series
from gradscope.quantities import JUDGED
from gradscope.run_info import RunInfo

RESULTS = Path(__file__).parent / "results"
#: Where `run` keeps the rows that the judge would have seen.
CACHE = Path(__file__).parent / "cache"


@dataclass(frozen=True)
class Labelled:
    """A line of runs.csv. ``tolerance``: λ* of its configuration when the run was planned; NaN in the search for it."""

    run: str
    family: str
    stratum: str
    strength: float
    tolerance: float
    steps: int
    failed: bool
    finite: bool
    optimizer: str
    gap: float  # share of the true baseline by which the loss ended below it

    @property
    def configuration(self) -> str:
        """The part of the name that runs of one configuration share."""
        return self.run.rsplit("/", 1)[0]

    @property
    def batches(self) -> int:
        """Steps an epoch."""
        data = 5120 if self.family == "mlp-pairs" else 2048 if self.family == "regression" else 1437
        return data // (64 if self.family.startswith(("mlp", "residual", "regression")) else 32)


def labelled(path: Path = RESULTS / "runs.csv") -> list[Labelled]:
    """Every run so far."""
    return [
        Labelled(
            row["run"], row["family"], row["stratum"], float(row["strength"]), float(row["tolerance"]),
            int(row["steps"]), row["failed"] == "True", row["finite"] == "True", row["optimizer"],
            1 - float(row["loss_end"]) / float(row["baseline"]),
        )
        for row in Results(path).recorded()
    ]  # fmt: skip


def verdicts(folder: Path = RESULTS) -> pd.DataFrame:
    """What the judge and the rules of others said of each run."""
    return pd.read_csv(folder / "verdicts.csv", comment="#")


def told(folder: Path = RESULTS) -> pd.DataFrame:
    """The probability at every look."""
    return pd.read_csv(folder / "probabilities.csv.gz", dtype={"phase": str})


def load(run: str, cache: Path = CACHE) -> tuple[dict[str, Any], RunInfo]:
    """Rows by variable name, and what does not change from row to row."""
    with np.load(cache / (run.replace("/", "__") + ".npz")) as kept:
        values: Mapping[str, Any] = {name: kept[name] for name in kept.files}
    attrs = {name.removeprefix("attr_"): str(value) for name, value in values.items() if name.startswith("attr_")}
    info = RunInfo.from_record(values["names"], {n: values[n] for n in ("numel", "penalised", "group")}, attrs)
    return {name: values[name] for name in ("step", *JUDGED) if name in values}, info


def whole_series(run: str, cache: Path = CACHE) -> tuple[Series, RunInfo]:
    """The network's series of a whole run."""
    rows, info = load(run, cache)
    return network_series(rows, info), info


def look_rows(rows: int, first: int = 16) -> list[int]:
    """The row counts at which a judge looks."""
    at, n = [], first
    while n <= rows:
        at.append(n)
        n = look_after(n)
    return at


def cause(run: Labelled, series: Series, learns_without: bool) -> str:
    """What became of a run, from all of its rows and from its twin without a penalty; no judge is asked.

    ``collapsed``: failed under a penalty without which its configuration learns, and weights and loss gradients fell
    together. ``marginal``: failed by the label, but its loss ended 2 to 5 % below the baseline.
    """
    if not run.failed:
        return "learned"
    if not run.finite or not np.isfinite(series.loss).all() or series.loss[-1] > 20 * np.median(series.loss[:16]):
        return "diverged"
    if run.gap > 0.02:
        return "marginal"
    penalised = bool(np.nan_to_num(series.strength).any())
    both_fell = fell(np.sqrt(series.weight_square)) >= 1 and fell(series.gradient) >= 0.5
    return "collapsed" if penalised and both_fell and learns_without else "stalled"


def fell(size: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """ln of the factor from the largest to the last of ten means."""
    means = [max(float(np.nanmean(part)), 1e-300) for part in np.array_split(size, 10)]
    return math.log(max(means) / means[-1])
