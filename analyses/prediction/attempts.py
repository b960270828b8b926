"""Attempts at a better reader, families held out, and which of them would have been chosen without the family.

A way to read is fitted without each family, and reads that family. Which way a family would have chosen is told by the
errors of all others; their readers had seen it, which is all that a choice has of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Results, Row
from analyses.common.study import Options
from analyses.prediction import wider
from analyses.prediction.data import Case
from analyses.prediction.fit import LEAF, NEAR, TREES, Tried, tried
from analyses.prediction.held_out import FACTORS, figures, tried_all
from gradscope.prediction.level_reader import NEAR_DECADES, NEAR_WEIGHT, Reader

FILE = "attempts.jsonl"
#: Larger errors count as much, where ways are compared.
MOST = 0.5
#: Support vectors and boosted trees are taught no probe further away.
REACH = 1.2

#: û of every probe of some cases, [N].
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Way:
    """A way to read. ``groups``: of numbers beside the usual ones; ``machines``: whose answers are averaged.

    ``balanced``: each family weighs the same.
    """

    groups: tuple[str, ...] = ()
    machines: tuple[str, ...] = ("trees",)
    balanced: bool = False


EVERY = tuple(wider.GROUPS)
WAYS = {
    "as shipped": Way(),
    "all five": Way(EVERY),
    "losses by root, log and what was gained": Way(("losses",)),
    "layers by least, greatest and product": Way(("layers",)),
    "the pull's trend, led on to where it crosses": Way(("readout",)),
    "likeness of the layers": Way(("chain",)),
    "rates with their gain, descent, noise": Way(("rates",)),
    "all five, families of the same weight": Way(EVERY, balanced=True),
    "all five, by support vectors": Way(EVERY, ("vectors",)),
    "all five, trees and support vectors averaged": Way(EVERY, ("trees", "vectors")),
    "all five, trees and boosted trees averaged": Way(EVERY, ("trees", "boosted")),
}


@dataclass(frozen=True)
class Told(Reader):
    """A reader that has read already."""

    answers: Mapping[bytes, float] = field(default_factory=dict)

    def read(self, x: Any) -> float:
        """û of these features, [F]."""
        return self.answers[x.tobytes()]


@functools.cache
def _known() -> dict[str, tuple[Case, Tried, Reader]]:
    cases, results, readers = tried_all()["direct"]
    by = {r.case.configuration.key: r for r in results}
    return {c.configuration.key: (c, by[c.configuration.key], readers[c.configuration.family]) for c in cases}


@functools.cache
def _more() -> dict[str, Any]:
    with np.load(wider.FILE) as file:
        return {name: values.astype(np.float64) for name, values in file.items()}


@functools.cache
def table(key: str, groups: Sequence[str]) -> tuple[Any, Any, list[bytes]]:
    """Features of all probes of a case [N, F], their places [N], and what each goes by."""
    case = _known()[key][0]
    seen = (*case.probes, *case.late)
    x = np.stack([probe.features for probe in seen])
    if groups:
        parts = [_more()[f"{key}.{p}"] for p in ("probes", "late") if getattr(case, p)]
        columns = [wider.NAMES.index(name) for group in groups for name in wider.GROUPS[group]]
        x = np.concatenate([x, np.concatenate(parts)[:, columns]], 1)
    return x, np.array([probe.place for probe in seen]), [probe.features.tobytes() for probe in seen]


def fitted(way: Way, cases: Sequence[Case]) -> Read:
    """What these cases teach."""
    parts = [table(case.configuration.key, way.groups) for case in cases]
    x, u = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    families = [case.configuration.family for case, p in zip(cases, parts, strict=True) for _ in p[1]]
    weights = np.array([1 / families.count(name) for name in families]) if way.balanced else np.ones(len(u))
    machines = [MACHINES[name](x, u, weights) for name in way.machines]
    return lambda z: np.mean([machine(z) for machine in machines], axis=0)


def _trees(x: Any, u: Any, weights: Any) -> Read:
    """Two forests, as the shipped reader has them."""
    near = np.abs(u) <= NEAR
    made = [
        ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, max_features=0.6, random_state=seed)
        .fit(x[s], u[s], weights[s])
        for seed, s in enumerate((np.ones(len(u), dtype=bool), near))
    ]  # fmt: skip

    def read(z: Any) -> Any:
        whole, close = (m.predict(z) for m in made)
        return np.where(np.abs(whole) > NEAR_DECADES, whole, (1 - NEAR_WEIGHT) * whole + NEAR_WEIGHT * close)

    return read


def _vectors(x: Any, u: Any, weights: Any) -> Read:
    some = np.abs(u) <= REACH
    made = make_pipeline(StandardScaler(), SVR(C=3, gamma=0.003, epsilon=0.05)).fit(x[some], u[some])
    return lambda z: made.predict(z)


def _boosted(x: Any, u: Any, weights: Any) -> Read:
    some = np.abs(u) <= REACH
    made = HistGradientBoostingRegressor(
        max_iter=TREES, learning_rate=0.06, max_leaf_nodes=12, min_samples_leaf=15, l2_regularization=1.0,
        random_state=0,
    ).fit(x[some], u[some], weights[some])  # fmt: skip
    return lambda z: made.predict(z)


MACHINES: dict[str, Callable[[Any, Any, Any], Read]] = {"trees": _trees, "vectors": _vectors, "boosted": _boosted}


def errors(way: Way, family: str) -> dict[str, float]:
    """The errors of a family's configurations, read by what has seen nothing of it."""
    known = _known()
    read = fitted(way, [case for case, *_ in known.values() if case.configuration.family != family])
    found = {}
    for key, (case, before, reader) in known.items():
        if case.configuration.family == family:
            x, _, names = table(key, way.groups)
            told = Told(reader.whole, reader.near, reader.first, reader.errors, reader.reach,
                        dict(zip(names, map(float, read(x)), strict=True)))  # fmt: skip
            found[key] = tried(case, told, begin=before.start + math.log10(case.level)).error
    return found


def loss(sizes: Sequence[float]) -> float:
    """How wrong some errors are together."""
    return float(np.mean(np.minimum(np.abs(sizes), MOST)))


def cells(asked: Options) -> list[Cell]:
    """One a way."""
    return [{"way": name} for name in WAYS]


def attempt(cell: Cell, asked: Options) -> Row:
    """A way's errors by configuration."""
    way = WAYS[cell["way"]]
    if way == Way():
        found = {key: before.error for key, (_, before, _) in _known().items()}
    else:
        families = dict.fromkeys(case.configuration.family for case, *_ in _known().values())
        found = {key: error for family in families for key, error in errors(way, family).items()}
    return {"errors": {key: round(error, 4) for key, error in found.items()}}


def chosen(rows: Mapping[str, Row], families: Mapping[str, str]) -> dict[str, str]:
    """For each family the way that errs least on the others; ``families``: by configuration."""
    return {
        family: min(
            rows, key=lambda way: loss([e for key, e in rows[way]["errors"].items() if families[key] != family])
        )
        for family in dict.fromkeys(families.values())
    }


def told(folder: Path) -> str:
    """The table."""
    rows = Results(folder / FILE).by("way")
    families = {key: case.configuration.family for key, (case, *_) in _known().items()}
    first = next(iter(WAYS))
    lines = []

    def line(name: str, of: Mapping[str, float]) -> list[str]:
        random, keys = np.random.default_rng(0), list(families)
        gain = np.array([min(abs(of[k]), MOST) - min(abs(rows[first]["errors"][k]), MOST) for k in keys])
        drawn = gain[random.integers(len(keys), size=(2000, len(keys)))].mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        biases = [f"{np.median([of[k] for k in keys if families[k] == f]):+.2f}" for f in WATCHED]
        return [name, *figures([of[k] for k in keys]).values(), f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})",
                *biases]  # fmt: skip

    lines = [line(name, rows[name]["errors"]) for name in WAYS if name in rows]
    choice = chosen(rows, families)
    nested = {key: rows[choice[family]]["errors"][key] for key, family in families.items()}
    lines.append(line("**chosen without the family**", nested))
    columns = ["way", "median error", "90 %", *FACTORS, "mean error against the shipped", *WATCHED]
    return "\n".join([
        "Written by `python -m analyses plot prediction` from attempts.jsonl.", "",
        f"{len(families)} configurations under SGD and AdamW, as `suggest` ends, families held out (95 % intervals "
        "over configurations; the last columns: median errors with their sign).", "",
        markdown(columns, lines), "",
        "Chosen by the other families: " + ", ".join(f"{f}: {name}" for f, name in choice.items()) + ".", "",
    ])  # fmt: skip


#: Families whose errors have a sign.
WATCHED = ("regression", "residual", "recurrent", "text", "tables")
