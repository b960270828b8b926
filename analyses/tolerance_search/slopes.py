"""How steep measured curves are, and what other priors of the slope would give a search.

The slopes come from the runs of other studies, as they are committed. Every prior is tried in the search itself, with
the real judge's errors, on curves whose slope is known, or drawn from those measured.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from analyses.common.markdown import markdown
from analyses.common.results import Cell, Results, Row
from analyses.common.statistics import wilson
from analyses.common.study import ANALYSES, Options
from analyses.tolerance_search.oracles import Simulated, driven
from analyses.tolerance_search.simulated import HIGH, JUDGES, LOW
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import LAPSE, SLOPES, TILT, EarlyErrors, Posterior, Predicted

Array = NDArray[np.float64]
#: Strength, and whether the run failed.
Runs = list[tuple[float, bool]]
SEARCHES = 200
#: Slopes that a measured curve is held against, and log-normal populations of them: medians, deviations in e-folds.
GRID = np.geomspace(0.003, 0.5, 26)
MEDIANS, DEVIATIONS = np.geomspace(0.008, 0.2, 40), (0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
#: The half-width of a prediction's interval after three probes, in decades.
HALF = 0.375
#: The slope of a curve that is drawn from the measured ones.
DRAWN = "drawn"


@dataclass(frozen=True)
class Prior:
    """Density of the slope between two ends: a power of it (``tilt``), or log-normal about a median."""

    ends: tuple[float, float]
    tilt: float | None = None
    median: float = 0.0
    deviation: float = 1.2

    def log_density(self, slope: Array) -> Array:
        """Of ln σ, up to a constant."""
        if self.tilt is not None:
            return np.asarray(self.tilt * np.log(slope))
        return np.asarray(-0.5 * (np.log(slope / self.median) / self.deviation) ** 2)


PRIORS = {
    "as it is": Prior(SLOPES, TILT),
    "up to .6": Prior((SLOPES[0], 0.6), TILT),
    "log-normal about .028": Prior((0.003, 0.6), median=0.028),
    "log-normal about .045": Prior((0.004, 0.6), median=0.045),
}
#: Decades to reach, slope, and whether a prediction is at hand.
LINES: tuple[tuple[float, float | str, bool], ...] = (
    (0.34, 0.03, False), (0.34, 0.03, True), (0.1, 0.03, False), (0.1, 0.03, True),
    (0.34, 0.1, False), (0.1, 0.1, False), (0.34, 0.2, False), (0.1, 0.2, False),
    (0.34, DRAWN, False), (0.34, DRAWN, True), (0.1, DRAWN, False),
)  # fmt: skip


# -- measured curves --------------------------------------------------------------------------------


def curves() -> dict[str, list[Runs]]:
    """The runs of each curve that other studies hold, by study."""
    found: dict[str, list[Runs]] = {}
    with np.load(ANALYSES / "prediction/results/probes.npz") as file:
        facts = json.loads(str(file["facts"]))
    found["prediction, from the start"] = [of["level"].get("trials") or [] for of in facts]
    rows = Results(ANALYSES / "prediction/results/delayed.jsonl").rows()
    found["prediction, delayed"] = list(_by(rows, "key", "delay").values())
    rows = [
        {**row, "configuration": row["run"].rsplit("/", 1)[0], "failed": str(row["failed"]) == "True"}
        for row in Results(ANALYSES / "failure_detection/results/runs.csv").rows()
        if row["stratum"] in ("search", "near")
    ]
    found["failure_detection"] = list(_by(rows, "configuration").values())
    rows = [row for row in Results(ANALYSES / "useful_strength/results/grid.jsonl").rows() if "failed" in row]
    found["useful_strength"] = list(_by(rows, "task", "schedule").values())
    return {
        name: [runs for runs in of if {failed for _, failed in runs} == {True, False}] for name, of in found.items()
    }


def _by(rows: Iterable[Row], *names: str) -> dict[tuple[object, ...], Runs]:
    grouped: dict[tuple[object, ...], Runs] = defaultdict(list)
    for row in rows:
        runs = row.get("trials") or [(row.get("strength", 0), row.get("failed", 0))]
        grouped[tuple(row.get(name) for name in names)] += [
            (float(strength), float(failed) > 0.5) for strength, failed in runs if float(strength) > 0
        ]
    return grouped


def likelihood(runs: Runs) -> Array:
    """P(runs | σ) at each slope of `GRID`, over its largest; the level is anywhere about them."""
    at, failed = np.log10([strength for strength, _ in runs]), np.array([kind for _, kind in runs])
    level = np.linspace(at.min() - 0.3, at.max() + 0.3, 400)
    fails = LAPSE / 2 + (1 - LAPSE) * ndtr((at[:, None, None] - level[:, None]) / GRID)  # [runs, levels, slopes]
    each = np.log(np.where(failed[:, None, None], fails, 1 - fails)).sum(0)
    of_slope = np.exp(each - each.max()).mean(0)
    return np.asarray(of_slope / of_slope.max())


def population(likelihoods: Sequence[Array]) -> tuple[float, float]:
    """The log-normal distribution of slopes that makes all these runs most likely: median, deviation in e-folds."""
    every = np.stack(likelihoods)
    best = (-math.inf, 0.0, 0.0)
    for median in MEDIANS:
        for deviation in DEVIATIONS:
            weight = np.exp(-0.5 * (np.log(GRID / median) / deviation) ** 2)
            best = max(best, (float(np.log(every @ (weight / weight.sum())).sum()), float(median), deviation))
    return best[1:]


# -- searches ---------------------------------------------------------------------------------------


class Supposing(ToleranceSearch):
    """The search with another prior of the slope."""

    def __init__(self, prior: Prior, precision: float, seed: int) -> None:
        self._of_slope = prior
        super().__init__(LOW, HIGH, precision=precision, seed=seed)

    def _prior(self, errors: EarlyErrors | None = None) -> Posterior:
        made = super()._prior(errors)
        made.slope = np.geomspace(*self._of_slope.ends, len(made.slope))
        made._log = np.tile(self._of_slope.log_density(made.slope), (len(made.level), 1))
        if self._predicted is not None:
            made._log += self._predicted.log_density(made.level)[:, None]
        return made


def cells(asked: Options) -> list[Cell]:
    """Seeds in turn over all settings, so that it can be cut off."""
    return [
        {"prior": prior, "precision": precision, "slope": slope, "predicts": predicts, "seed": seed}
        for seed in range(SEARCHES) for prior in PRIORS for precision, slope, predicts in LINES
    ]  # fmt: skip


def errors() -> list[float]:
    """What predictions of SGD's and AdamW's levels err by, families held out, in decades."""
    rows = Results(ANALYSES / "prediction/results/results.csv").rows()
    return [float(r["error"]) for r in rows if r["penalty"] == "l2" and r["optimizer"] != "adam" and r["error"]]


def search(cell: Cell, asked: Options) -> Row:
    """One search, over four decades, of a level in the middle two of them."""
    random = np.random.default_rng([35, cell["seed"]])
    level, slope = float(random.uniform(-3, -1)), cell["slope"]
    if slope == DRAWN:
        drawn = PRIORS["log-normal about .028"]
        slope = float(np.clip(drawn.median * np.exp(drawn.deviation * random.normal()), *drawn.ends))
    made = Supposing(PRIORS[cell["prior"]], cell["precision"], cell["seed"])
    if cell["predicts"]:
        told = 10 ** (level + float(random.choice(errors())))
        made.expect(Predicted.from_interval(told, told * 10**HALF))
    found = driven(made, Simulated(level, slope, random, *JUDGES["real"])).estimate()
    covered = found.low is not None and found.high is not None and found.low <= 10**level <= found.high
    return {"covered": int(covered), "trials": len(made.told), "steps": sum(trial.steps for trial in made.told)}


# -- tables -----------------------------------------------------------------------------------------


def told(folder: Path) -> str:
    """Slopes by study, and what each prior gives."""
    by_study = {name: [likelihood(runs) for runs in of] for name, of in curves().items()}
    by_study["together"] = [each for of in by_study.values() for each in of]
    lines = []
    for name, of in by_study.items():
        median, deviation = population(of)
        beyond = 1 - ndtr(math.log(0.1 / median) / deviation)
        lines.append([name, f"{len(of)}", f"{median:.3f}", f"{deviation:g}", f"{beyond:.2f}"])
    groups: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in Results(folder / "slopes.csv").rows():
        groups[str(row["prior"]), str(row["precision"]), str(row["slope"]), str(row["predicts"])].append(row)
    searches = []
    for (prior, precision, slope, predicts), rows in groups.items():
        held = sum(int(row["covered"]) for row in rows)
        low, high = wilson(held, len(rows))
        trials, steps = (np.mean([float(row[of]) for row in rows]) for of in ("trials", "steps"))
        searches.append([precision, slope, "yes" if predicts == "True" else "no", prior, f"{trials:.1f}",
                         f"{steps:.0f}", f"{held / len(rows):.3f} ({low:.3f} to {high:.3f})"])  # fmt: skip
    return "\n".join([
        "Written by `python -m analyses plot tolerance_search`.", "",
        "Slopes of measured curves, log-normal, most likely:", "",
        markdown(["study", "curves", "median, decades", "deviation, e-folds", "share above .1"], lines), "",
        f"{SEARCHES} searches a line (slopes.csv), without the steps of the prediction's probes:", "",
        markdown(["decades to reach", "slope", "prediction", "prior of the slope", "trials", "steps", "coverage"],
                 sorted(searches)), "",
    ])  # fmt: skip
