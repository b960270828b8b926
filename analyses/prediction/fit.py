"""Makes the reader that gradscope ships, from probes.npz: python -m analyses.prediction.fit.

Two forests a kind read the distance, one from all probes, one from those near the level; a third guesses where to
begin, from a run without a penalty. How wrong they are together is measured with every family held out, all of it
fitted again without that family.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from analyses.prediction.data import Case, cases
from gradscope.prediction import reader as shipped
from gradscope.prediction.asker import FOLDINGS, FREE, LATE, PROBES, ROWS, SHORTEST, SHORTEST_FOLDING, Prober
from gradscope.prediction.features import features, free_features
from gradscope.prediction.forest import Forest
from gradscope.prediction.reader import Reader, scaled
from gradscope.prediction.rows import Probe

TREES = 150
#: Probes so near the level teach the second forest.
NEAR = 0.45
KINDS = ("direct", "coupled", "l1")
#: An interval is told for what is held by this share of the held-out configurations, and by at least so many of them.
CONFIDENCE, FEWEST = 0.95, 5
PLACE = Path(shipped.__file__).parent / shipped.FILE


def as_asked(probe: Probe) -> Probe:
    """So many rows as the prober would have asked for at its strength."""
    return probe.first(int(min(ROWS, max(SHORTEST, math.ceil(FOLDINGS * min(probe.folding, ROWS) + 5)))))


def usable(probe: Probe) -> bool:
    """One that the prober would have run, and read."""
    fits = probe.kind != "direct" or probe.folding >= SHORTEST_FOLDING
    return bool(fits and np.isfinite(probe.loss).all() and np.isfinite(probe.weight).all())


def is_late(case: Case) -> bool:
    """Its probes are long ones."""
    return math.isfinite(case.escape) and case.escape > LATE and bool(case.late)


def lessons(case: Case) -> list[tuple[float, Probe]]:
    """What the distance is learned from: probes as they are asked for; of a late net the averaged ones too."""
    short = [(u, as_asked(probe)) for u, probe in case.probes if usable(probe)]
    return short + [(u, probe) for u, probe in case.late if usable(probe)]


def forest_of(x: NDArray[np.float64], y: NDArray[np.float64], leaf: int, seed: int) -> Forest:
    """Extremely randomised trees, as plain arrays."""
    made = ExtraTreesRegressor(TREES, min_samples_leaf=leaf, max_features=0.6, random_state=seed).fit(x, y)
    parts: dict[str, list[Any]] = {"feature": [], "value": [], "right": []}
    roots = []
    for tree in (e.tree_ for e in made.estimators_):
        roots.append(sum(len(part) for part in parts["feature"]))
        leaves = tree.children_left < 0
        at = np.arange(tree.node_count)
        assert (tree.children_left[~leaves] == at[~leaves] + 1).all()
        parts["feature"].append(np.where(leaves, -1, tree.feature).astype(np.int8))
        parts["value"].append(np.where(leaves, tree.value[:, 0, 0], tree.threshold).astype(np.float32))
        parts["right"].append(np.where(leaves, 0, tree.children_right - at).astype(np.uint16))
    feature, value, right = (np.concatenate(parts[name]) for name in ("feature", "value", "right"))
    return Forest(feature, value, right, np.array(roots, dtype=np.int32))


def fitted(known: Sequence[Case], seed: int = 0) -> Reader:
    """The reader that these configurations teach; its errors are not known yet."""
    told = [(u, features(probe)) for case in known for u, probe in lessons(case)]
    x, u = np.stack([f for _, f in told]), np.array([u for u, _ in told])
    near = np.abs(u) <= NEAR
    free = [(scaled(case.level, f), free_features(first_rows(f))) for case in known for f in case.free]
    strengths = [scaled(p.strength, p) for case in known for _, p in case.probes]
    return Reader(
        whole=forest_of(x, u, 3, seed),
        near=forest_of(x[near], u[near], 3, seed + 1),
        first=forest_of(np.stack([f for _, f in free]), np.array([y for y, _ in free]), 3, seed + 2),
        errors={1: math.inf},
        reach=(10 ** min(strengths), 10 ** max(strengths)),
    )


def first_rows(free: Probe) -> Probe:
    """A run without a penalty as far as it is followed: to the first border after its escape, or `FREE` steps."""
    means = np.convolve(free.loss[:17], np.full(5, 0.2), "valid")
    return free.first(17 if means[-1] < 0.7 * free.baseline else FREE)


@dataclass(frozen=True)
class Tried:
    """What the prober made of one configuration: its estimates after each probe, and the steps until then."""

    case: Case
    start: float
    errors: tuple[float, ...]
    distances: tuple[float, ...]
    steps: tuple[int, ...]
    ended: int
    reason: str


def tried(case: Case, reader: Reader, most: int = PROBES, start: float | None = None) -> Tried:
    """The prober on a recorded configuration: each probe that it asks for is the nearest one that was recorded."""
    prober = Prober({case.configuration.group: reader}, case.configuration.penalty, start, most, horizon=400)
    errors, distances, steps, spent, ended = [], [], [], 0, 0
    begin = math.nan
    left = dict(enumerate(case.late if is_late(case) else case.probes))
    while len(prober.told) < most and not prober.reason and left:
        plan = prober.ask()
        if plan.strength == 0:
            slow = plan.steps > FREE
            free = case.free[0] if not slow or len(prober.free) < 2 else case.free[1]
            free = free if slow else first_rows(free)
            spent += int(case.escape if slow and math.isfinite(case.escape) else len(free.step))
            if slow and not is_late(case):  # it escapes, and its rows end before
                prober.free.append(replace(free, loss=np.where(free.step >= free.step[-1] - 6, 0.0, free.loss)))
                continue
            if slow:
                prober.free.append(free)
                prober.late = case.escape
                prober.free.append(replace(free, loss=np.zeros_like(free.loss)))
                continue
            prober.tell(plan, free)
            begin = reader.begin(free) if not prober.reason else begin
            continue
        nearest = min(left, key=lambda i: abs(math.log10(left[i][1].strength / plan.strength)))
        _, probe = left.pop(nearest)
        if not usable(probe):
            continue
        if is_late(case):
            prober.told.append((probe, reader.distance(probe)))
        else:
            prober.tell(plan, as_asked(probe))
        spent += int(prober.told[-1][0].step[-1]) + 1
        errors.append(prober._level() - math.log10(case.level))
        distances.append(prober.told[-1][1])
        steps.append(spent)
        ended = ended or (len(errors) if prober.done else 0)
    return Tried(
        case,
        begin - math.log10(case.level),
        tuple(errors),
        tuple(distances),
        tuple(steps),
        ended or len(errors),
        prober.reason,
    )


def held_out(known: Sequence[Case], seed: int = 0) -> list[Tried]:
    """Every configuration by a reader that has seen nothing of its family."""
    found = []
    for family in dict.fromkeys(case.configuration.family for case in known):
        reader = fitted([c for c in known if c.configuration.family != family], seed)
        found += [tried(case, reader) for case in known if case.configuration.family == family]
    return found


def interval(errors: Sequence[float]) -> float:
    """What 95 % of further errors stay below, by those seen (conformal: the ⌈.95 (n + 1)⌉-th smallest)."""
    ranked = sorted(abs(e) for e in errors)
    return float(ranked[min(len(ranked), math.ceil(CONFIDENCE * (len(ranked) + 1))) - 1])


def of_kind(found: Sequence[Case], kind: str) -> list[Case]:
    """Those with a level, of one kind."""
    return [case for case in found if case.configuration.group == kind and math.isfinite(case.level) and case.probes]


def in_words(results: Sequence[Tried], errors: dict[int, float]) -> str:
    """What came of families held out."""
    ran = [r for r in results if r.errors]
    last = np.abs([r.errors[r.ended - 1] for r in ran])
    shares = ", ".join(f"within {x:g}x {np.mean(last <= math.log10(x)):.2f}" for x in (1.2, 1.5))
    return (
        f"first guess {np.median(np.abs([r.start for r in results])):.3f}; median error {np.median(last):.3f} decades, "
        f"90 % {np.quantile(last, 0.9):.3f}; {shares}; intervals ± {', '.join(f'{e:.2f}' for e in errors.values())}; "
        f"steps {np.median([r.steps[r.ended - 1] for r in ran]):.0f}"
    )


def main() -> None:
    """Fit, measure, write."""
    arrays: dict[str, Any] = {}
    told: dict[str, Any] = {}
    everything = cases()
    for kind in KINDS:
        known = of_kind(everything, kind)
        reader = fitted(known)
        results = held_out(known)
        errors = {
            n: interval([r.errors[min(n, len(r.errors)) - 1] for r in results if r.errors])
            for n in range(1, PROBES + 1)
        }
        told[kind] = {
            "errors": errors, "reach": reader.reach, "configurations": len(known),
            "families": len({c.configuration.family for c in known}),
        }  # fmt: skip
        for part in ("whole", "near", "first"):
            arrays |= getattr(reader, part).arrays(f"{kind}.{part}")
        print(f"{kind}: {len(known)} configurations, {told[kind]['families']} families; {in_words(results, errors)}")
    facts = {"kinds": told, "sklearn": sklearn.__version__, "trees": TREES}
    np.savez_compressed(PLACE, facts=json.dumps(facts), **arrays)
    print(f"{PLACE}: {PLACE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
