"""What a search would gain if a trial were judged beside the finished ones of its configuration.

Half a minute, from the committed tables alone; prints.

Runs of a search and near λ* in the order in which they were made. Feature: the output's signal (ln of its spread over
the largest so far) less the middle between the means of the three nearest earlier failures and the three nearest
earlier runs that learned, at the same row count; weights exp(−|ln λ/λ'| / .15). None before there is one of each. The
logistic regression, and the threshold that lets .4 % false alarms through, are fitted on other families;
two looks in a row have to agree, and the weights have to fall, as for the judge. ``--shuffled``: earlier runs with
labels drawn at random, the control.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from analyses.common.study import Options
from analyses.failure_detection.fit import FALSE_ALARMS, read_features
from analyses.failure_detection.records import told, verdicts

Array = NDArray[np.float64]
NEAREST, WIDTH = 3, 0.15
#: What the regression is given: the judge's own log odds and the feature; the logarithm of the row count.
GIVEN = ["odds", "beside", "age"]


def level(values: Array, distance: Array) -> Array:
    """The weighted mean over the nearest runs at each row count, [N] from [R, N]; NaN where none has it."""
    near = np.argsort(distance)[:NEAREST]
    known = np.isfinite(values[near])
    weight = known * np.exp(-distance[near] / WIDTH)[:, None] + known * 1e-12
    with np.errstate(invalid="ignore"):
        return np.asarray((weight * np.nan_to_num(values[near])).sum(0) / weight.sum(0))


def beside(signal: Array, strength: Array, failed: NDArray[np.bool_]) -> Array:
    """The feature of each run of one configuration, in their order, [R, N]; NaN where there are not both kinds yet."""
    found = np.full(signal.shape, np.nan)
    for i in range(len(signal)):
        distance = np.abs(np.log(strength[:i] / strength[i]))
        kinds = [np.flatnonzero(failed[:i] == kind) for kind in (True, False)]
        if all(len(kind) for kind in kinds):
            found[i] = signal[i] - np.mean([level(signal[kind], distance[kind]) for kind in kinds], axis=0)
    return found


def table(shuffled: bool) -> pd.DataFrame:
    """One line a look of every run of a search or near λ*."""
    runs = verdicts()
    runs = runs[runs["stratum"].isin(["search", "near"])].reset_index(drop=True)
    looks = read_features()[["run", "n", "open", "signal"]]
    looks["p"] = told()["probability"]
    rng, parts = np.random.default_rng(0), []
    for _, same in runs.groupby(runs["run"].str.rsplit("/", n=1).str[0], sort=False):
        label = same["failed"].to_numpy()
        label = rng.permutation(label) if shuffled else label
        wide = looks[looks["run"].isin(same["run"])].pivot(index="run", columns="n", values="signal")
        wide = wide.reindex(same["run"])
        values = beside(wide.to_numpy(), same["strength"].to_numpy(), label)
        parts.append(
            pd.DataFrame(values, index=wide.index, columns=wide.columns).stack().rename("beside").reset_index()
        )
    found = looks.merge(pd.concat(parts), on=["run", "n"], how="left").merge(runs, on="run")
    p = found["p"].clip(1e-6, 1 - 1e-6).fillna(0.5)
    found["odds"], found["age"] = np.log(p / (1 - p)).clip(-8, 8), np.log(found["n"])
    found["known"] = found["beside"].notna()
    return found.assign(beside=found["beside"].clip(-6, 6).fillna(0.0))


def fitted(rows: pd.DataFrame) -> LogisticRegression:
    """Every run weighs the same."""
    weight = 1 / rows.groupby("run")["run"].transform("size")
    return LogisticRegression(max_iter=500).fit(rows[GIVEN], rows["failed"], sample_weight=weight)


def called(rows: pd.DataFrame, p: Array) -> pd.Series:
    """The threshold at which two looks in a row would call it, a look."""
    here = pd.Series(np.where(rows["open"] & rows["known"], p, 0.0), index=rows.index)
    return np.minimum(here, here.groupby(rows["run"]).shift(1, fill_value=0.0))


def held_out(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Log odds of every look by a model of other families, and whether they call it."""
    odds, call = pd.Series(np.nan, index=rows.index), pd.Series(False, index=rows.index)
    for family in rows["family"].unique():
        held, train = rows[rows["family"] == family], rows[(rows["family"] != family) & rows["known"]]
        inner = pd.Series(0.0, index=train.index)
        for other in train["family"].unique():
            inside = train["family"] == other
            inner[inside] = fitted(train[~inside]).predict_proba(train.loc[inside, GIVEN])[:, 1]
        highest = called(train, inner.to_numpy()).groupby(train["run"]).max()
        learned = np.sort(highest[~train.groupby("run")["failed"].first()].to_numpy())
        at = min(len(learned) - 1, int(np.ceil((1 - FALSE_ALARMS) * len(learned))))
        threshold = max(0.9, learned[at] + 0.002)
        model = fitted(train)
        odds[held.index] = model.decision_function(held[GIVEN])
        call[held.index] = called(held, model.predict_proba(held[GIVEN])[:, 1]) >= threshold
    return odds, call


def said(rows: pd.DataFrame) -> Iterator[str]:
    """The figures, a line each."""
    rows["score"], rows["call"] = held_out(rows)
    runs = rows.groupby("run").first()
    runs["judge"] = runs["live"].isin(["collapsed", "diverged", "stalled", "vanishing"])
    runs["both"] = runs["judge"] | rows.groupby("run")["call"].any()
    adaptive, near = runs["optimizer"].str.startswith("adam"), runs["stratum"] == "near"
    collapsed, learned = runs["cause"] == "collapsed", runs["cause"] == "learned"
    for who in ("judge", "both"):
        counts = [f"{runs.loc[of, who].sum()} of {of.sum()}" for of in
                  (collapsed, collapsed & adaptive, collapsed & near, learned)]  # fmt: skip
        yield f"{who}: collapses {counts[0]}, under Adam and AdamW {counts[1]}, near λ* {counts[2]}, false {counts[3]}"
    late = rows[(rows["stratum"] == "near") & (rows["n"] >= 2 * rows["batches"]) & (rows["n"] < 3 * rows["batches"])]
    after = late.sort_values("n").groupby("run").first()
    for name, of in {"all": after["n"] > 0, "sgd": after["optimizer"] == "sgd",
                     "adamw": after["optimizer"] == "adamw"}.items():  # fmt: skip
        areas = [roc_auc_score(after.loc[of, "failed"], after.loc[of, column]) for column in ("odds", "score")]
        alone = roc_auc_score(after.loc[of, "failed"], -after.loc[of, "beside"])
        yield (
            f"AUROC near λ* after two epochs, {name} ({of.sum()} runs): judge {areas[0]:.3f}, with siblings "
            f"{areas[1]:.3f}, siblings alone {alone:.3f}"
        )


def siblings(asked: Options) -> None:
    """Print."""
    for text in said(table(asked.more["shuffled"])):
        print(text)
