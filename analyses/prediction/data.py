"""What was collected, in one file, probes.npz.

Of each probe it keeps what the reader is told: its features, with its strength and its length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.common.study import Options
from analyses.prediction.configurations import HORIZON, Configuration, benchmark, configurations
from analyses.prediction.training import rate
from gradscope.prediction.ask_tell import FOLDINGS, FREE, LATE, ROWS, SHORTEST, SHORTEST_FOLDING
from gradscope.prediction.features import features, free_features
from gradscope.prediction.rows import Probe
from gradscope.types import InputError

FILE = Path(__file__).parent / "results" / "probes.npz"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """A probe under a penalty: its place u = log₁₀(λ/λ*), its strength, the steps it took, and its features [F]."""

    place: float
    strength: float
    steps: int
    features: Array


@dataclass(frozen=True)
class Case:
    """A configuration with its level. ``probes``: those that the prober could ask for; ``late``: in averaged rows.

    ``free``: the first row of a run without a penalty, ``first``: the features of two such runs; ``spent``: the steps
    of the first. ``low``, ``high``: the level's own 95 % interval. ``level`` is NaN where there is none, as in
    normalised nets. ``escape``: steps to it; ``known``: the level is another study's. ``invariant``: the share of ‖w‖²
    in weights orthogonal to their gradient.
    """

    configuration: Configuration
    level: float
    low: float
    high: float
    learns: bool
    escape: float
    known: bool
    invariant: float
    trials: list[tuple[float, bool]]
    free: Probe
    first: tuple[Array, ...]
    spent: int
    probes: tuple[Seen, ...]
    late: tuple[Seen, ...]

    @property
    def is_late(self) -> bool:
        """Its probes are long ones."""
        return self.escape > LATE and bool(self.late)


def pack(cache: Path) -> None:
    """All files of the cache into one."""
    known = {c.key: c for c in (*configurations(), *benchmark())}
    arrays: dict[str, Any] = {}
    told: list[dict[str, Any]] = []
    for path in sorted(p for p in cache.glob("*.npz") if ".part" not in p.name):
        with np.load(path) as file:
            held = dict(file)
        facts = json.loads(str(held["facts"]))
        number, c = len(told), known[facts["key"]]
        chosen = range(len(facts["strengths"]))
        free, *under = recorded(c, facts, held["loss"], held["sizes"], chosen, 1)
        second = under.pop(0)
        arrays[f"{number}.first"] = np.stack([free_features(first_rows(f)) for f in (free, second)]).astype(np.float32)
        one = free.first(1)
        arrays[f"{number}.row"] = np.stack([one.gradient[0], one.weight[0], one.dot[0], one.gradient_size[0],
                                            one.weight_size[0], one.numel]).astype(np.float32)  # fmt: skip
        facts["spent"] = len(first_rows(free).step)
        facts["invariant"] = orthogonal_share(free)
        facts["seen"] = _kept(arrays, f"{number}.probes", facts["places"], [as_asked(p) for p in under])
        if late := facts.pop("late", None):
            rows = recorded(c, facts, held["late-loss"], held["late-sizes"], late["chosen"], late["every"])
            places = [facts["places"][i - 2] for i in late["chosen"][2:]]
            facts["seen-late"] = _kept(arrays, f"{number}.late", places, list(rows)[2:])
        told.append(facts)
    arrays["facts"] = json.dumps(told)
    np.savez_compressed(FILE, **arrays)


def _kept(
    arrays: dict[str, Any], name: str, places: list[float], probes: list[Probe]
) -> list[tuple[float, float, int]]:
    fit = [(u, probe) for u, probe in zip(places, probes, strict=True) if usable(probe)]
    if fit:
        arrays[name] = np.stack([features(probe) for _, probe in fit]).astype(np.float32)
    return [(u, probe.strength, int(probe.step[-1]) + 1) for u, probe in fit]


def as_asked(probe: Probe) -> Probe:
    """So many rows as the prober would have asked for at its strength."""
    return probe.first(int(min(ROWS, max(SHORTEST, math.ceil(FOLDINGS * min(probe.folding, ROWS) + 5)))))


def usable(probe: Probe) -> bool:
    """One that the prober would have run, and read."""
    fits = probe.kind != "direct" or probe.folding >= SHORTEST_FOLDING
    return bool(fits and np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all())


def first_rows(free: Probe) -> Probe:
    """A run without a penalty as far as it is followed: to the first border after its escape, or `FREE` steps."""
    means = np.convolve(free.loss[:17], np.full(5, 0.2), "valid")
    return free.first(17 if means[-1] < 0.7 * free.baseline else FREE)


def orthogonal_share(free: Probe) -> float:
    """The share of ‖w‖² in matrices that are orthogonal to their gradient (their RMS cosine·√n below .02)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (free.dot / (free.weight * free.gradient))[:8] * np.sqrt(free.numel)
    square = free.weight[0] ** 2
    return float(square[np.sqrt((cosines**2).mean(0)) < 0.02].sum() / square.sum())


def cases() -> list[Case]:
    """Everything that was packed, in the order of the configurations' numbers."""
    known = {c.key: c for c in (*configurations(), *benchmark())}
    with np.load(FILE) as file:
        held = dict(file)
    found = json.loads(str(held["facts"]))
    return [_case(known[facts["key"]], facts, held, number) for number, facts in enumerate(found)]


def _case(c: Configuration, facts: dict[str, Any], held: dict[str, Any], number: int) -> Case:
    level = facts["level"]
    inside = bool(level.get("determined"))
    if inside and level["trials"]:  # a level beyond all that was tried is an extrapolation
        tried = [strength for strength, _ in level["trials"]]
        inside = min(tried) < level["tolerance"] < max(tried)

    def seen(name: str, told: list[tuple[float, float, int]]) -> tuple[Seen, ...]:
        if not told:
            return ()
        rows = held[name].astype(np.float64)
        return tuple(Seen(u, strength, steps, x) for (u, strength, steps), x in zip(told, rows, strict=True))

    return Case(
        configuration=c,
        level=level["tolerance"] if inside else float("nan"),
        low=level["low"] if inside else float("nan"),
        high=level["high"] if inside else float("nan"),
        learns=bool(level.get("learns", True)),
        escape=float(facts.get("escape", float("nan"))),
        known=c.number >= 890,
        invariant=facts["invariant"],
        trials=[(float(s), bool(f)) for s, f in level.get("trials", [])],
        free=_first_row(c, facts, held[f"{number}.row"].astype(np.float64)),
        first=tuple(held[f"{number}.first"].astype(np.float64)),
        spent=facts["spent"],
        probes=seen(f"{number}.probes", facts["seen"]),
        late=seen(f"{number}.late", facts.get("seen-late", [])),
    )


def _settings(c: Configuration, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "penalty": c.penalty, "momentum": c.momentum, "adaptive": c.optimizer.startswith("adam"),
        "beside": c.optimizer == "adamw" or c.penalty == "l1", "baseline": float(facts["baseline"]),
        "optimizer": {"adam": "Adam", "adamw": "AdamW"}.get(c.optimizer, "SGD"),
    }  # fmt: skip


def _first_row(c: Configuration, facts: dict[str, Any], row: Array) -> Probe:
    gradient, weight, dot, gradient_size, weight_size, numel = (values[None] for values in row)
    return Probe(
        np.zeros(1), np.full(1, float(facts["baseline"])), gradient, weight, dot, gradient_size, weight_size, numel[0],
        np.full(1, c.lr * rate(c.decay, 0.0)), 0.0, **_settings(c, facts),
    )  # fmt: skip


def recorded(
    c: Configuration, facts: dict[str, Any], loss: Array, sizes: Array, chosen: Any, every: int
) -> Iterator[Probe]:
    """The probes of one configuration; ``loss`` [R, T], ``sizes`` [R, T, 5, P]."""
    numel = np.array(facts["numel"], dtype=np.float64)
    for run, index in enumerate(chosen):
        rows = sizes[run].astype(np.float64)
        count = len(rows)
        steps = np.arange(1, count + 1, dtype=np.float64) * every - 1
        rates = [np.mean([rate(c.decay, (k * every + j) / HORIZON) for j in range(every)]) for k in range(count)]
        yield Probe(
            step=np.asarray(steps, dtype=np.float64), loss=loss[run].astype(np.float64), gradient=rows[:, 0],
            weight=rows[:, 1], dot=rows[:, 2], gradient_size=rows[:, 3] / numel, weight_size=rows[:, 4] / numel,
            numel=numel, rate=c.lr * np.array(rates), strength=float(facts["strengths"][index]), **_settings(c, facts),
        )  # fmt: skip


def pack_all(asked: Options) -> None:
    """Pack."""
    if asked.more["cache"] is None:
        raise InputError("--cache is missing; expected the folder that was collected into")
    pack(asked.more["cache"])
    found = cases()
    levels = sum(np.isfinite(c.level) for c in found)
    print(f"{len(found)} configurations, {levels} with a level; {FILE.stat().st_size} bytes")
