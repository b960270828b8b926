"""Would gradient coherence have told the runs near λ* apart? (5 min)

Trains the runs within ±6 % of λ* for two epochs, takes of every weight matrix the cosine of successive gradients and
the share of the mean gradient in their squares, ‖mean g‖²/mean ‖g‖², in each epoch, and asks what a logistic
regression gains by each beside the judge's probability, every family held out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.failure_detection.ceiling import EPOCHS, near_runs
from analyses.failure_detection.check import judged_runs, of_line
from analyses.failure_detection.metrics import area, at_step
from analyses.failure_detection.records import told, verdicts
from analyses.failure_detection.training import loop, prepared

#: What is taken of the numbers of all matrices.
OF_LAYERS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "mean": np.mean,
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "lowest": np.min,
}


def cells(asked: Options) -> list[Cell]:
    """The runs near λ*."""
    return [{"run": row["run"]} for row in near_runs()]


def measured(cell: Cell, asked: Options) -> Row:
    """The candidates of one run."""
    row = judged_runs()[cell["run"]]
    run, batches = of_line(row), int(row["batches"])
    model, optimizer = prepared(run)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    seen: list[list[Tensor]] = []

    def look(*_: Any) -> None:
        seen.append([p.grad.double().flatten().clone() for p in matrices if p.grad is not None])

    optimizer.register_step_pre_hook(look)
    loop(run, model, optimizer, EPOCHS * batches, lambda loss: None)
    found = {}
    for epoch in range(EPOCHS):
        steps = seen[epoch * batches : (epoch + 1) * batches]
        by_matrix = [torch.stack(list(gradients)) for gradients in zip(*steps, strict=True)]
        cosines = [np.mean([float(torch.cosine_similarity(a, b, 0)) for a, b in pairwise(g)]) for g in by_matrix]
        shares = [float(g.mean(0).square().sum() / g.square().sum(1).mean()) for g in by_matrix]
        for name, of in OF_LAYERS.items():
            found[f"cosine, {name}, epoch {epoch + 1}"] = round(float(of(np.array(cosines))), 5)
            share = float(np.log(max(of(np.array(shares)), 1e-6)))
            found[f"share, {name}, epoch {epoch + 1}"] = round(share, 5)
    return found


def held_out(table: pd.DataFrame, names: list[str]) -> float:
    """AUROC of a logistic regression on these columns, every family scored by a fit on the others."""
    score = pd.Series(np.nan, index=table.index)
    for family in table["family"].unique():
        held = table["family"] == family
        scaler = StandardScaler().fit(table.loc[~held, names])
        model = LogisticRegression().fit(scaler.transform(table.loc[~held, names]), table.loc[~held, "failed"])
        score[held] = model.predict_proba(scaler.transform(table.loc[held, names]))[:, 1]
    return area(table["failed"].to_numpy(), score.to_numpy())


def lines(folder: Path) -> Iterator[str]:
    """What each candidate gains."""
    table = pd.read_csv(folder / "coherence.csv", comment="#").set_index("run")
    candidates = [name for name in table.columns if "epoch" in name]
    table = table[candidates].fillna(table[candidates].median())
    known = verdicts(folder).set_index("run").reindex(table.index)
    table["family"], table["failed"] = known["family"], known["failed"].astype(bool)
    p = at_step(told(folder), EPOCHS * known["batches"]).reindex(table.index)
    table["judge"] = np.log(p / (1 - p).clip(lower=1e-9)).clip(-8, 8)
    table = table[p.notna()]
    yield f"* {len(table)} runs; the judge's probability alone, fitted again: {held_out(table, ['judge']):.3f}"
    for name in candidates:
        alone = area(table["failed"].to_numpy(), table[name].to_numpy())
        yield f"* {name}: alone {alone:.3f}, beside the judge {held_out(table, ['judge', name]):.3f}"
    yield f"* all of them beside the judge: {held_out(table, ['judge', *candidates]):.3f}"
