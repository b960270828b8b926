"""Every cached run judged by a model fitted on the other families.

Writes verdicts.csv (one line a run) and probabilities.csv.gz (one line a look); metrics.py and plot.py read them.
With ``--in-sample`` in_sample.csv instead: the verdicts of one model that was fitted on every family.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.common.study import Options
from analyses.failure_detection.baselines import RULES, median_pruner
from analyses.failure_detection.fit import fit, probabilities, read_features
from analyses.failure_detection.records import Labelled, cause, labelled, load, look_rows
from gradscope.diagnosis import measures
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.probability import Model
from gradscope.diagnosis.series import Series
from gradscope.run_info import RunInfo
from gradscope.types import Verdict


def follow(rows: dict[str, Any], info: RunInfo, model: Model) -> tuple[Judge, dict[str, Any]]:
    """One run as it grows: the judge that has seen all of it, and what it said at every look and at the end."""
    judge = Judge(info, model=model)
    said: list[Verdict] = []
    start = 0
    for n in [*look_rows(len(rows["step"])), len(rows["step"])]:
        judge.update({name: values[start:n] for name, values in rows.items()})
        said.append(judge.diagnosis().verdict)
        start = n
    live, final = judge.diagnosis(), judge.diagnosis(finished=True)
    return judge, {
        "live": str(live.verdict), "decided_step": live.decided_step if live.failed else None,
        "onset_step": live.onset_step, "active_step": live.active_step, "holds": _begins(judge),
        "final": str(final.verdict), "changes": sum(a is not b for a, b in pairwise(said)),
        "returned": any(a.failed and not b.failed for a, b in pairwise(said)),
    }  # fmt: skip


def _begins(judge: Judge) -> float | None:
    """The strength to begin with that the remedy names."""
    return judge.lower.strength if judge.lower else None


def switched_on(series: Series) -> int:
    """The step at which the penalty came on; 0 without one."""
    on = np.flatnonzero(np.nan_to_num(series.strength) > 0)
    return int(series.step[on[0]]) if len(on) else 0


def line(run: Labelled, model: Model, learns_without: bool, cache: Path) -> dict[str, Any]:
    """Everything about one run."""
    rows, info = load(run.run, cache)
    judge, said = follow(rows, info, model)
    series = judge.series
    on = switched_on(series)
    top = int(series.step[measures.shrinking_since(series, len(series))])
    others = {**rows, "names": np.array(info.parameters), "numel": info.numel}
    return {
        "run": run.run, "family": run.family, "stratum": run.stratum, "optimizer": run.optimizer,
        "strength": run.strength, "tolerance": run.tolerance, "steps": run.steps, "batches": run.batches,
        "failed": run.failed, "cause": cause(run, series, learns_without), "began": max(on, top), "on": on,
        "e_foldings": float(f"{measures.e_foldings(series, len(series)):.3g}"),
        **said,
        **{name: rule(others, run.batches) for name, rule in RULES.items()},
    }  # fmt: skip


def score(asked: Options) -> None:
    """Both tables."""
    cache = asked.more["cache"]
    table = read_features()
    runs = labelled()  # also those that were not finite at the first look, of which the table holds nothing
    learns = {run.configuration: not run.failed for run in runs if run.stratum == "none"}
    if asked.more["in_sample"]:
        model = fit(table)
        judged = [line(run, model, learns.get(run.configuration, True), cache) for run in runs]
        pd.DataFrame(judged)[["run", "failed", "cause", "live"]].to_csv(asked.out / "in_sample.csv", index=False)
        return
    lines, held_out = [], pd.Series(np.nan, index=table.index)
    for family in table["family"].unique():
        held = table["family"] == family
        model = fit(table[~held])
        held_out[held] = probabilities(model, table[held])
        of_it = [run for run in runs if run.family == family]
        lines += [line(run, model, learns.get(run.configuration, True), cache) for run in of_it]
        print(f"{family}: threshold {model.threshold}", flush=True)
    verdicts = pd.DataFrame(lines)
    verdicts["median pruner"] = pruned(runs, cache).reindex(verdicts["run"]).to_numpy()
    verdicts.to_csv(asked.out / "verdicts.csv", index=False)
    seen = table[["run", "family", "failed", "n", "phase"]].assign(probability=held_out.round(4))
    seen.to_csv(asked.out / "probabilities.csv.gz", index=False)


def pruned(runs: list[Labelled], cache: Path) -> pd.Series:
    """Where Optuna's median pruner would have stopped each run."""
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(run.configuration for run in runs):
        same = [run for run in runs if run.configuration == name]
        stops = median_pruner([load(run.run, cache)[0] for run in same], same[0].batches)
        found |= {run.run: stop for run, stop in zip(same, stops, strict=True)}
    return pd.Series(found, dtype="float64")
