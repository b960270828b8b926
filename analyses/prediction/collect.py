"""Levels and probes of every configuration. Resumable; a file a configuration.

A level is the product's own posterior over runs of `HORIZON` steps, laid where it is still in doubt. Probes lie at
strengths around it, out of which the reader will have to tell how far away they are.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import numpy as np

from analyses.common.results import Results
from analyses.common.study import ANALYSES, Options
from analyses.failure_detection.records import RESULTS as BENCHMARK
from analyses.prediction.configurations import HORIZON, SEARCHED, Configuration, benchmark, configurations
from analyses.prediction.tasks import task
from analyses.prediction.training import Ensemble, outcomes, probes
from gradscope.tolerance.posterior import Posterior, posterior_of
from gradscope.trials.trial import Outcome
from gradscope.types import InputError

#: Levels that other searches have found.
SEARCHES = ANALYSES / "tolerance_search" / "results" / "searches.csv"

#: Where a level is looked for first: (the middle, decades to each side). AdamW's are λ times the learning rate.
PLACES = {"direct": (0.03, 1.0), "adamw": (0.02, 1.2), "coupled": (0.1, 1.2), "l1": (3e-3, 1.2)}
#: Strengths tried at once, over what is left of the range, and how often at most.
COUNT, WAVES = 4, 5
#: Decades of the interval at which a level is known well enough.
KNOWN = 0.16
#: Distances log₁₀(λ/λ*) of the probes: (how many, at most so far away).
NEAR, FAR = (6, 0.45), (8, 2.0)
#: Rows of a probe.
ROWS = 40
#: A free run beyond 80 steps is recorded in so many averaged rows, to twice its escape.
EARLY = 80
ESCAPED = 0.7
#: Families whose steps take several times as long: a third of the turns.
SLOW = ("transformer", "text", "recurrent", "images", "conv")


def level(c: Configuration) -> dict[str, Any]:
    """λ* of a configuration, what it took, and the losses of two runs without a penalty."""
    baseline = task(c.task).baseline
    _, free = outcomes(c, [0.0, 0.0], [1, 2], to_escape=True)
    ends = [float(np.nanmean(run[np.isfinite(run)][-20:])) / baseline for run in free]
    facts: dict[str, Any] = {"free": ends, "learns": bool(max(ends) < 0.9), "free-loss": free}
    trials: list[tuple[float, bool]] = []
    if not facts["learns"]:
        return facts | {"determined": False, "reason": "a run without a penalty does not learn", "trials": trials}
    middle, reach = PLACES["adamw" if c.optimizer == "adamw" else c.group]
    middle = math.log10(middle / c.lr if c.optimizer == "adamw" else middle)
    for wave in range(WAVES):
        count = COUNT if wave else COUNT + 1
        at = middle + reach * np.linspace(-1, 1, count)
        first = 1000 + 10 * len(trials)
        failed, _ = outcomes(c, (10**at).tolist(), range(first, first + count))
        trials += [(float(s), bool(f)) for s, f in zip(10**at, failed, strict=True)]
        ways = {f for _, f in trials}
        if len(ways) < 2:  # no transition there: beyond the end where it must be
            middle += (2 * reach + 0.3) * (-1 if True in ways else 1)
            continue
        low, middle, high = (float(q) for q in _posterior(trials).quantile([0.025, 0.5, 0.975]))
        if high - low <= KNOWN:
            break
        reach = min(reach, max(0.5 * (high - low) * (1 - 1 / COUNT), 0.04))
    found = _posterior(trials).estimate([Outcome(s, float(f)) for s, f in trials])
    return facts | {
        "determined": found.determined, "reason": found.reason, "tolerance": found.tolerance, "low": found.low,
        "high": found.high, "slope": found.slope, "trials": trials,
    }  # fmt: skip


def known_level(name: str) -> dict[str, Any]:
    """The same from the runs of the benchmark, which are not trained again."""
    if name.startswith(SEARCHED):
        others = Results(SEARCHES).rows()
        made = [r for r in others if (r["layers"], r["epochs"]) == (name.removeprefix(SEARCHED), "50")]
        middle, low, high = (float(np.median([float(r[at]) for r in made])) for at in ("tolerance", "low", "high"))
        return {
            "free": [0.0], "learns": True, "determined": True, "reason": f"{len(made)} searches", "tolerance": middle,
            "low": low, "high": high, "slope": None, "trials": [],
        }  # fmt: skip
    rows = [r for r in Results(BENCHMARK / "runs.csv").rows() if r["run"].startswith(name + "/")]
    free = [float(r["loss_end"]) / float(r["baseline"]) for r in rows if r["stratum"] == "none"]
    trials = [(float(r["strength"]), r["failed"] == "True") for r in rows if r["stratum"] in ("search", "near")]
    found = _posterior(trials).estimate([Outcome(s, float(f)) for s, f in trials])
    return {
        "free": free, "learns": max(free) < 0.9, "determined": found.determined, "reason": found.reason,
        "tolerance": found.tolerance, "low": found.low, "high": found.high, "slope": found.slope, "trials": trials,
    }  # fmt: skip


def _posterior(trials: list[tuple[float, bool]]) -> Posterior:
    return posterior_of([Outcome(s, float(f)) for s, f in trials])


def escape(losses: np.ndarray[Any, Any], baseline: float) -> float:
    """Steps to the first mean of five losses below `ESCAPED` of the baseline; infinite where there is none."""
    means = np.convolve(np.nan_to_num(losses, nan=np.inf), np.full(5, 0.2), "valid")
    below = np.flatnonzero(means < ESCAPED * baseline)
    return float(below[0] + 5) if len(below) else math.inf


def collect(c: Configuration, name: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of one configuration: facts, and arrays. ``name``: of one whose level another study tells."""
    started, busy = time.time(), time.process_time()
    if c.family == "normalised":
        found: dict[str, Any] = {}
    else:
        found = known_level(name) if name else level(c)
    if name and found.get("learns"):
        found["free-loss"] = outcomes(c, [0.0, 0.0], [1, 2], to_escape=True)[1]
    arrays: dict[str, Any] = {"free-loss": found.pop("free-loss", np.zeros((0, 0)))}
    runs = Ensemble(c, [0.0], [0])
    facts: dict[str, Any] = {"key": c.key, "baseline": task(c.task).baseline, "level": found}
    facts["numel"] = [runs.parameters[name][0].numel() for name in runs.matrices]
    facts["matrices"] = runs.matrices
    random = np.random.default_rng([23, c.number])
    places = [
        float(u)
        for count, reach in (NEAR, FAR)
        for u in reach * (2 * (np.arange(count) + random.random(count)) / count - 1)
    ]
    places = places if found.get("determined") else []
    strengths = [0.0, 0.0, *(found["tolerance"] * 10**u for u in places)]
    facts["places"], facts["strengths"] = places, strengths
    seeds = [1, 2, *range(2000, 2000 + len(places))]
    arrays["loss"], arrays["sizes"] = probes(c, strengths, seeds, ROWS)
    if found.get("learns"):
        late = max(escape(run, facts["baseline"]) for run in arrays["free-loss"])
        facts["escape"] = late
        if late > 0.6 * ROWS and places:
            every = math.ceil(min(2 * late, HORIZON) / ROWS)
            chosen = [0, 1, *range(2, 2 + len(places), 2)]
            loss, sizes = probes(c, [strengths[i] for i in chosen], [seeds[i] for i in chosen], ROWS * every)
            shape = (len(chosen), ROWS, every)
            arrays["late-loss"] = loss.reshape(shape).mean(2)
            arrays["late-sizes"] = sizes.reshape(*shape, *sizes.shape[2:]).mean(2)
            facts["late"] = {"every": every, "chosen": chosen}
    facts["core_seconds"] = round(time.process_time() - busy, 1)
    facts["seconds"] = round(time.time() - started, 1)
    return facts, arrays


def in_order(found: list[Configuration]) -> list[Configuration]:
    """One of each family in turn, cheap ones first, so that whatever there is time for is of all kinds."""

    def cost(c: Configuration) -> float:
        each = {"conv": 30, "vgg": 60, "text": 40, "transformer": 20, "rnn": 8, "gru": 20, "lstm": 20}.get(c.kind, 1)
        return c.layers * (1 + c.width * c.width * c.batch * each / 2e5)

    ranked: list[tuple[float, float, Configuration]] = []
    for family in dict.fromkeys(c.family for c in found):
        members = sorted((c for c in found if c.family == family), key=cost)
        slow = 3 if family in SLOW else 1
        ranked += [(slow * (place + 0.5), cost(c), c) for place, c in enumerate(members)]
    return [c for *_, c in sorted(ranked, key=lambda entry: entry[:2])]


def collect_all(asked: Options) -> None:
    """Collect what is missing."""
    if (cache := asked.more["cache"]) is None:
        raise InputError("--cache is missing; expected a folder for a file a configuration")
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    known = benchmark()
    for c in (*known, *in_order(configurations())):
        path = cache / f"{c.key}.npz"
        if path.exists():
            continue
        if time.monotonic() - started > 60 * asked.minutes:
            break
        facts, arrays = collect(c, known.get(c, ""))
        whole = path.with_suffix(".part.npz")
        np.savez_compressed(whole, facts=json.dumps(facts), **arrays)
        whole.replace(path)
        found = facts["level"]
        if found.get("determined"):
            said = f"{found['tolerance']:.3g} ({math.log10(found['high'] / found['low']):.2f} decades)"
        else:
            said = found.get("reason", "no level")
        counted = f"{len(found.get('trials', []))} trials, {facts['core_seconds']} s of {facts['seconds']}"
        print(f"{c.key} {c.decay} {said}; {counted}", file=sys.stderr, flush=True)
