"""The shipped model of the judge (about a minute).

Reads features.csv.gz, writes gradscope/diagnosis/failure_model.json. ``--features`` first makes features.csv.gz from
the cached records: the signals of every look at every run.
"""

from __future__ import annotations

import gzip
import json
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

import gradscope
from analyses.common.study import Options
from analyses.failure_detection.records import RESULTS, labelled, look_rows, whole_series
from gradscope.diagnosis import measures
from gradscope.diagnosis.failing import falls
from gradscope.diagnosis.probability import Model, from_json, name_of, used
from gradscope.diagnosis.run_prefix import Baseline, RunPrefix
from gradscope.diagnosis.signals import PHASES, SIGNALS, phase, signals
from gradscope.diagnosis.thresholds import Thresholds

FEATURES = RESULTS / "features.csv.gz"
SHIPPED = Path(gradscope.__file__).parent / "diagnosis" / "failure_model.json"
PHASE_NAMES = ("off", *(f"{end:g}" for end in PHASES), "later")
NEEDS = ("loss", "activations", "balance")
SUBSETS = [frozenset(s) for s in chain.from_iterable(combinations(NEEDS, k) for k in range(len(NEEDS) + 1))]
FALSE_ALARMS = 0.004  # share of the runs that learn which may be called on families that were not fitted
RIDGE = 1.0  # inverse strength of the logistic regression's own L2 penalty


def features(cache: Path) -> pd.DataFrame:
    """One line a look: the signals, and whether the weights fall under a penalty while the loss is at the baseline."""
    found = []
    for run in labelled():
        series, info = whole_series(run.run, cache)
        baseline = Baseline(info.baseline_loss, info.baseline_source)
        with np.errstate(all="ignore"):
            for n in look_rows(len(series)):
                look = RunPrefix(series, n, info, baseline, Thresholds())
                if measures.not_finite(series, n)[-1]:
                    break
                known = {name: float(f"{value:.3g}") for name, value in signals(look).items()}
                place = {"run": run.run, "family": run.family, "failed": run.failed, "n": n, "phase": phase(look)}
                found.append({**place, "sure": baseline.sure, "open": falls(look), **known})
    return pd.DataFrame(found)


def fit_phase(table: pd.DataFrame, names: list[str]) -> dict[str, Any] | None:
    """One logistic regression; every run weighs the same. None where the phase holds too few runs of one kind."""
    by_run = table.groupby("run")["failed"].first()
    if by_run.sum() < 8 or (~by_run).sum() < 8:
        return None
    names = [name for name in names if table[name].notna().any()]
    values = table[names].to_numpy(dtype=np.float64)
    low, high = (np.nanquantile(values, q, axis=0) for q in (0.01, 0.99))
    values = np.clip(values, low, high)
    mean, spread = np.nanmean(values, axis=0), np.maximum(np.nanstd(values, axis=0), 1e-6)
    scaled = np.nan_to_num((values - mean) / spread)
    weight = 1 / table.groupby("run")["run"].transform("size").to_numpy()
    model = LogisticRegression(C=RIDGE, max_iter=1000)
    model.fit(scaled, table["failed"].to_numpy(), sample_weight=weight)
    columns = zip(low, high, mean, spread, model.coef_[0], strict=True)
    known = {name: [float(f"{v:.4g}") for v in column] for name, column in zip(names, columns, strict=True)}
    return {"intercept": float(f"{model.intercept_[0]:.4g}"), "signals": known}


def fit_table(table: pd.DataFrame, subsets: list[frozenset[str]] = SUBSETS) -> dict[str, Any]:
    """Every availability and phase. A baseline that was guessed teaches nothing about the loss."""
    found: dict[str, Any] = {}
    for subset in subsets:
        rows = table[table["sure"]] if "loss" in subset else table
        penalised = rows[rows["phase"] != "off"]
        whole = fit_phase(penalised, used(subset))
        fitted = {name: fit_phase(rows[rows["phase"] == name], used(subset)) for name in PHASE_NAMES}
        found[name_of(subset)] = {name: one or whole for name, one in fitted.items() if one or whole}
    return found


def probabilities(model: Model, table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of every line, with all that the benchmark records."""
    full, unsure = frozenset(NEEDS), frozenset(NEEDS) - {"loss"}
    rows = table[["sure", "phase", *SIGNALS]].to_dict("records")
    return np.array([model.probability(full if r["sure"] else unsure, str(r["phase"]), r) for r in rows])


def called(table: pd.DataFrame, probability: np.ndarray[Any, Any]) -> pd.Series:
    """For every run, the highest threshold at which two looks in a row would call it."""
    p = pd.Series(np.where(table["open"], probability, 0.0), index=table.index)
    before = p.groupby(table["run"]).shift(1, fill_value=0.0)
    return np.minimum(p, before).groupby(table["run"]).max()


def fit(table: pd.DataFrame) -> Model:
    """The model, its threshold from families left out in turn."""
    out_of_fold = pd.Series(np.nan, index=table.index)
    for family in table["family"].unique():
        held = table["family"] == family
        rest = Model(fit_table(table[~held], [frozenset(NEEDS), frozenset(NEEDS) - {"loss"}]), 1.0)
        out_of_fold[held] = probabilities(rest, table[held])
    highest = called(table, out_of_fold.to_numpy())
    failed = table.groupby("run")["failed"].first()
    learned = np.sort(highest[~failed].to_numpy())
    threshold = float(learned[min(len(learned) - 1, int(np.ceil((1 - FALSE_ALARMS) * len(learned))))])
    threshold = float(f"{min(max(threshold, 0.9) + 0.002, 0.995):.3f}")
    return Model(fit_table(table), threshold)


def as_json(model: Model) -> str:
    """The text of the shipped file."""
    about = "written by python -m analyses run failure_detection --only fit; see gradscope/diagnosis/probability.py"
    return json.dumps({"about": about, "threshold": model.threshold, "table": model.table}, indent=1) + "\n"


def read_features() -> pd.DataFrame:
    """The committed table."""
    return pd.read_csv(FEATURES, dtype={"phase": str})


def fit_shipped(asked: Options) -> None:
    """Fit and write."""
    if asked.more["features"]:
        with gzip.open(FEATURES, "wt", newline="") as file:
            features(asked.more["cache"]).to_csv(file, index=False)
    text = as_json(fit(read_features()))
    SHIPPED.write_text(text, encoding="utf-8")
    print(f"threshold {from_json(text).threshold}, {len(text)} bytes")


def wrong() -> list[str]:
    """Whether the shipped file is not what the fit gives."""
    same = json.loads(SHIPPED.read_text(encoding="utf-8")) == json.loads(as_json(fit(read_features())))
    return [] if same else [f"{SHIPPED} is not what --only fit gives"]
