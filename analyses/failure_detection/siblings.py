"""The shipped model of a trial beside the finished ones of its configuration, and what it gains.

Half a minute, from the committed tables alone: writes gradscope/diagnosis/siblings_model.json and prints what it gains
on families that were not fitted. ``--levels`` first makes siblings.csv.gz from the cached records (and trains those
that are missing): the signal of every look, whether a search would have ended the run as learning by then, and the
label that the run has come to this time. Probabilities and verdicts are of the first training: a run that came to
another label then is left out, since its signals are not of the run that these are about.

Runs of a search and near λ* in the order in which they were made, each judged beside those before it, as far as a
search would have let them run. Feature, weights and rule are the product's (`gradscope.diagnosis.siblings`); two looks
in a row have to agree, and the weights have to fall, as for the judge. The threshold lets .4 % false alarms through on
families that were not fitted. ``--shuffled``: earlier runs with labels drawn at random; ``--alone``: without labels,
the three nearest whatever became of them, from the second run on. Both only print.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import gradscope
from analyses.common.study import Options
from analyses.common.tasks import task
from analyses.failure_detection.check import of_line
from analyses.failure_detection.fit import FALSE_ALARMS, read_features
from analyses.failure_detection.records import RESULTS, load, look_rows, told, verdicts
from analyses.failure_detection.run import below_baseline
from analyses.failure_detection.training import train
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.siblings import SiblingModel, from_json, inputs, middle
from gradscope.run_info import Sibling

Array = NDArray[np.float64]
LEVELS = RESULTS / "siblings.csv.gz"
SHIPPED = Path(gradscope.__file__).parent / "diagnosis" / "siblings_model.json"
#: Live verdicts at which a search ends a run.
FAILED = ["collapsed", "diverged", "stalled", "vanishing"]
#: A row count beyond all.
NEVER = 1 << 30


def searched() -> pd.DataFrame:
    """The verdicts of runs of a search and near λ*, in their order."""
    runs = verdicts()
    return runs[runs["stratum"].isin(["search", "near"])].reset_index(drop=True)


def levels(cache: Path) -> pd.DataFrame:
    """One line a look: ln of the spread of the output, whether the run had been seen to hold, and how it ended."""
    found = []
    for row in searched().to_dict("records"):
        run = of_line({name: str(value) for name, value in row.items()})
        if not (cache / run.file).exists():
            train(run, cache)
        rows, info = load(run.key, cache)
        end = float(np.mean(rows["loss"][-max(1, run.configuration.steps // 20) :]))
        again = not below_baseline(end, task(run.configuration.task).baseline)
        judge, start = Judge(info), 0
        for n in look_rows(len(rows["step"])):
            judge.update({name: values[start:n] for name, values in rows.items()})
            start, settled = n, judge.settled_step is not None
            found.append({"run": run.key, "n": n, "level": judge.levels[-1], "settled": settled, "again": again})
    return pd.DataFrame(found)


def table() -> pd.DataFrame:
    """One line a look of every run: signal, the judge's own probability by other families, whether its weights fall."""
    looks = read_features()[["run", "n", "open"]]
    looks["own"] = told()["probability"]
    every = looks.merge(pd.read_csv(LEVELS), on=["run", "n"]).merge(searched(), on="run", sort=False)
    return every[~every["run"].isin(moved())]


def moved() -> list[str]:
    """The runs that came to another label when they were trained again."""
    again = pd.read_csv(LEVELS).groupby("run")["again"].first()
    return [
        str(run) for run, failed in zip(searched()["run"], searched()["failed"], strict=True) if again[run] != failed
    ]


def of_configurations(rows: pd.DataFrame) -> Iterator[list[pd.DataFrame]]:
    """The looks of each run, in their order, a configuration at a time."""
    order = {run: i for i, run in enumerate(searched()["run"])}
    for _, same in rows.groupby(rows["run"].str.rsplit("/", n=1).str[0], sort=False):
        yield [look for _, look in sorted(same.groupby("run"), key=lambda item: order[item[0]])]


def judged(same: list[pd.DataFrame], model: SiblingModel | None, asked: Mapping[str, Any]) -> list[pd.DataFrame]:
    """The runs of one configuration, each beside those before it: ``beside``, ``p`` and ``call`` at every look."""
    random, earlier, found = np.random.default_rng(0), list[Sibling](), []
    labels = np.array([bool(run["failed"].iloc[0]) for run in same])
    labels = random.permutation(labels) if asked["shuffled"] else labels
    for run, failed in zip(same, labels, strict=True):
        strength, signal = float(run["strength"].iloc[0]), run["level"].to_numpy()
        near = [replace(s, failed=kind) for s in earlier for kind in (True, False)] if asked["alone"] else earlier
        places = np.array([x - middle(strength, near, k) for k, x in enumerate(signal)])
        known = np.isfinite(places)
        p = np.zeros(len(run))
        if model is not None:
            p[known] = [model.probability(*x) for x in zip(run["own"][known], places[known], strict=True)]
        threshold = model.threshold if model is not None else math.inf
        call = highest(run["open"].to_numpy(), p) >= threshold
        found.append(run.assign(beside=places, p=p, call=call))
        ends = np.where(ended(run) | call, run["n"], NEVER).min()
        earlier.append(Sibling(strength, bool(failed), tuple(signal[run["n"] <= ends])))
    return found


def ended(run: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether a search would have ended the run by each look, without siblings."""
    called = run["live"].isin(FAILED) & (run["n"] > run["decided_step"].fillna(NEVER))
    return np.asarray(called | run["settled"])


def highest(falls: NDArray[np.bool_], p: Array) -> Array:
    """At each look the threshold at which two in a row would call it."""
    here = np.where(falls, p, 0.0)
    return np.asarray(np.minimum(here, np.append(0.0, here[:-1])))


def beside(rows: pd.DataFrame, model: SiblingModel | None, asked: Mapping[str, Any]) -> pd.DataFrame:
    """Every run beside those before it."""
    return pd.concat([run for same in of_configurations(rows) for run in judged(same, model, asked)])


def regression(rows: pd.DataFrame) -> SiblingModel:
    """The regression alone, with no threshold; every run weighs the same."""
    known = rows[np.isfinite(rows["beside"])]
    given = np.array([inputs(*x) for x in zip(known["own"], known["beside"], strict=True)])
    weight = 1 / known.groupby("run")["run"].transform("size")
    fitted = LogisticRegression(max_iter=500).fit(given, known["failed"], sample_weight=weight)
    intercept, odds, place = (float(f"{x:.4g}") for x in (fitted.intercept_[0], *fitted.coef_[0]))
    return SiblingModel(intercept, odds, place, math.inf)


def fitted(rows: pd.DataFrame) -> SiblingModel:
    """The model of these runs (``beside`` them as the judge alone ends them), its threshold from families left out."""
    most: list[float] = []
    for family in rows["family"].unique():
        inside = rows["family"] == family
        rest = regression(rows[~inside])
        for _, run in rows[inside & ~rows["failed"]].groupby("run"):
            p = [rest.probability(*x) for x in zip(run["own"], run["beside"], strict=True)]
            most.append(highest(run["open"].to_numpy(), np.nan_to_num(p)).max())
    at = min(len(most) - 1, int(np.ceil((1 - FALSE_ALARMS) * len(most))))
    threshold = min(max(0.9, sorted(most)[at]) + 0.002, 0.995)
    return replace(regression(rows), threshold=float(f"{threshold:.3f}"))


def said(rows: pd.DataFrame, asked: Mapping[str, Any]) -> Iterator[str]:
    """The figures, families held out, a line each."""
    left = f"{len(moved())} of {len(searched())} came to another label when trained again"
    yield f"{rows['run'].nunique()} runs; {left}, and are left out"
    alone = beside(rows, None, asked)
    families = alone["family"].unique()
    models = {family: fitted(alone[alone["family"] != family]) for family in families}
    held = pd.concat([beside(rows[rows["family"] == family], models[family], asked) for family in families])
    runs, calls = held.groupby("run").first(), held[held["call"]].groupby("run")["n"].min()
    own, siblings = runs["live"].isin(FAILED), runs.index.isin(calls.index)
    adaptive, near = runs["optimizer"].str.startswith("adam"), runs["stratum"] == "near"
    collapsed, learned = runs["cause"] == "collapsed", runs["cause"] == "learned"
    for who, called in {"judge": own, "with siblings": own | siblings}.items():
        counts = [f"{called[of].sum()} of {of.sum()}" for of in
                  (collapsed, collapsed & adaptive, collapsed & near, learned)]  # fmt: skip
        yield f"{who}: collapses {counts[0]}, under Adam and AdamW {counts[1]}, near λ* {counts[2]}, false {counts[3]}"
    yield saved(runs[collapsed], calls)
    late = held[(held["stratum"] == "near") & (held["n"] >= 2 * held["batches"]) & (held["n"] < 3 * held["batches"])]
    after = late.sort_values("n").groupby("run").first()
    after["p"] = after["p"].where(after["beside"].notna(), after["own"].fillna(0.5))
    for name, of in {"all": after["n"] > 0, "sgd": after["optimizer"] == "sgd",
                     "adamw": after["optimizer"] == "adamw"}.items():  # fmt: skip
        areas = [roc_auc_score(after.loc[of, "failed"], after.loc[of, column]) for column in ("own", "p")]
        told = f"judge {areas[0]:.3f}, with siblings {areas[1]:.3f}"
        yield f"AUROC near λ* after two epochs, {name} ({of.sum()} runs): {told}"


def saved(collapses: pd.DataFrame, calls: pd.Series) -> str:
    """How much shorter collapses are that a search ends when they are called."""
    whole = collapses["steps"]
    own = (collapses["decided_step"] + 1).where(collapses["live"].isin(FAILED)).fillna(whole)
    both = np.fmin(own, calls.reindex(own.index).fillna(NEVER))
    fewer = 1 - both.sum() / own.sum()
    return f"steps of collapses: judge {own.sum():.0f}, with siblings {both.sum():.0f} ({fewer:.1%} fewer)"


def as_json(model: SiblingModel) -> str:
    """The text of the shipped file."""
    about = "written by python -m analyses run failure_detection --only siblings; see gradscope/diagnosis/siblings.py"
    return json.dumps({"about": about, **vars(model)}, indent=1) + "\n"


def shipped() -> SiblingModel:
    """The model of all families."""
    return fitted(beside(table(), None, {"shuffled": False, "alone": False}))


def siblings(asked: Options) -> None:
    """Fit, write, print."""
    if asked.more["levels"]:
        text = levels(asked.more["cache"]).to_csv(index=False)
        LEVELS.write_bytes(gzip.compress(text.encode(), mtime=0))
    if not (asked.more["shuffled"] or asked.more["alone"]):
        SHIPPED.write_text(as_json(shipped()), encoding="utf-8")
        print(f"{SHIPPED.name}: {from_json(SHIPPED.read_text(encoding='utf-8'))}")
    for text in said(table(), asked.more):
        print(text)


def wrong() -> list[str]:
    """Whether the shipped file is not what the fit gives."""
    same = SHIPPED.read_text(encoding="utf-8") == as_json(shipped())
    return [] if same else [f"{SHIPPED} is not what --only siblings gives"]
