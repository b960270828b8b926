"""Other ways to find the level, against the same simulated runs: bisection, a grid, Optuna, and psignifit offline."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.tolerance_search.oracles import Simulated, driven, rounded
from analyses.tolerance_search.simulated import HIGH, LOW
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import Posterior
from gradscope.trials.trial import Outcome

SLOPES = (0.02, 0.05, 0.1)
#: Searches for each slope; psignifit takes seventeen seconds a fit.
REPEATS = {"search": 100, "bisection": 100, "grid": 100, "grid, our fit": 100, "optuna": 40, "psignifit": 4}
Outcomes = list[tuple[float, bool]]


@dataclass(frozen=True)
class Answer:
    """log₁₀ of the level, with an interval where the way has one; what it cost."""

    level: float
    low: float
    high: float
    runs: int
    steps: int


def bisection(oracle: Simulated) -> Answer:
    """Halve a four-decade range until the bracket is .1 decades wide; every run to the horizon."""
    low, high, runs = math.log10(LOW), math.log10(HIGH), 0
    while high - low > 0.1:
        middle, runs = (low + high) / 2, runs + 1
        low, high = (low, middle) if oracle.truth(10**middle) else (middle, high)
    return Answer((low + high) / 2, low, high, runs, runs * oracle.horizon)


def grid_runs(oracle: Simulated, strengths: int = 12, seeds: int = 3) -> Outcomes:
    """The first seed document's protocol: 12 strengths, 3 seeds, full length."""
    at = np.linspace(math.log10(LOW), math.log10(HIGH), strengths)
    return [(float(x), oracle.truth(10**x)) for x in at for _ in range(seeds)]


def grid(oracle: Simulated) -> Answer:
    """Read off the grid: between the last strength at which most runs learn and the next one."""
    runs = grid_runs(oracle)
    at = sorted({x for x, _ in runs})
    most = [bool(np.mean([failed for x, failed in runs if x == here]) > 0.5) for here in at]
    first = most.index(True) if True in most else len(at) - 1
    low, high = at[max(first - 1, 0)], at[first]
    return Answer((low + high) / 2, low, high, len(runs), len(runs) * oracle.horizon)


def grid_with_our_fit(oracle: Simulated) -> Answer:
    """The same runs under the posterior of the search: what their number alone can give."""
    runs = grid_runs(oracle)
    return _fitted(runs, len(runs) * oracle.horizon)


def _fitted(runs: Outcomes, steps: int) -> Answer:
    posterior = Posterior(LOW, HIGH)
    for x, failed in runs:
        posterior.update(Outcome(10**x, float(failed)))
    low, middle, high = posterior.quantile([0.025, 0.5, 0.975])
    return Answer(float(middle), float(low), float(high), len(runs), steps)


def search(oracle: Simulated) -> Answer:
    """gradscope's own."""
    found = driven(ToleranceSearch(LOW, HIGH, seed=int(oracle.random.integers(1 << 30))), oracle)
    low, middle, high = found.posterior.quantile([0.025, 0.5, 0.975])
    return Answer(float(middle), float(low), float(high), len(found.told), sum(t.steps for t in found.told))


def optuna_tpe(oracle: Simulated, trials: int = 25) -> Answer:
    """TPE asked for the largest strength that learns. The score of a run that fails is below the range.

    There is no curve to prune in a simulated run; the study on real training has the median pruner.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def score(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", math.log10(LOW), math.log10(HIGH))
        return math.log10(LOW) - 1 if oracle.truth(10**x) else x

    sampler = optuna.samplers.TPESampler(seed=int(oracle.random.integers(1 << 30)))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(score, n_trials=trials)
    return Answer(study.best_value, math.nan, math.nan, trials, trials * oracle.horizon)


def psignifit(oracle: Simulated) -> Answer:
    """psignifit's fit of the runs that a search of ours has made (yes/no, cumulative normal)."""
    import psignifit as ps

    found = driven(ToleranceSearch(LOW, HIGH, seed=int(oracle.random.integers(1 << 30))), oracle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = ps.psignifit(counts(found.told), sigmoid="norm", experiment_type="yes/no")
    level, intervals = fit.threshold(0.5)
    low, high = intervals["0.95"]
    return Answer(float(level), float(low), float(high), len(found.told), sum(t.steps for t in found.told))


def counts(told: Sequence[object]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Strength (log₁₀), failures and runs, as psignifit takes them."""
    pairs = [(math.log10(t.strength), t.failed > 0.5) for t in told]  # type: ignore[attr-defined]
    at = sorted({x for x, _ in pairs})
    return np.array([[x, sum(f for y, f in pairs if y == x), sum(y == x for y, _ in pairs)] for x in at], dtype=float)


WAYS: dict[str, Callable[[Simulated], Answer]] = {
    "search": search, "bisection": bisection, "grid": grid, "grid, our fit": grid_with_our_fit, "optuna": optuna_tpe,
    "psignifit": psignifit,
}  # fmt: skip


def cells(asked: Options) -> list[Cell]:
    """Every way on the same levels."""
    return [{"way": way, "slope": slope, "seed": seed} for way in WAYS for slope in SLOPES
            for seed in range(REPEATS[way])]  # fmt: skip


def compare(cell: Cell, asked: Options) -> Row:
    """One search in one way."""
    random = np.random.default_rng([99, cell["seed"]])
    level = float(random.uniform(-3.5, -0.5))
    found = WAYS[cell["way"]](Simulated(level, cell["slope"], random))
    covered = math.nan if math.isnan(found.low) else float(found.low <= level <= found.high)
    return rounded(error=abs(found.level - level), low=found.low, high=found.high, covered=covered, runs=found.runs,
                   steps=found.steps)  # fmt: skip
