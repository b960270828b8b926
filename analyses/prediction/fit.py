"""Makes the reader that gradscope ships, from probes.npz.

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
from scipy import stats
from sklearn.ensemble import ExtraTreesRegressor

from analyses.prediction.configurations import HORIZON
from analyses.prediction.data import Case, cases
from gradscope.prediction import level_reader as shipped
from gradscope.prediction.ask_tell import PROBES, Prober
from gradscope.prediction.forest import Forest
from gradscope.prediction.level_reader import Reader, scaled

TREES, LEAF = 150, 3
#: Probes so near the level teach the second forest.
NEAR = 0.45
KINDS = ("direct", "coupled", "l1")
CONFIDENCE = 0.95
PLACE = Path(shipped.__file__).parent / shipped.FILE


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
    told = [probe for case in known for probe in (*case.probes, *case.late)]
    x, u = np.stack([probe.features for probe in told]), np.array([probe.place for probe in told])
    near = np.abs(u) <= NEAR
    first = [(scaled(case.level, case.free), x) for case in known for x in case.first]
    strengths = [scaled(probe.strength, case.free) for case in known for probe in case.probes]
    return Reader(
        whole=forest_of(x, u, LEAF, seed),
        near=forest_of(x[near], u[near], LEAF, seed + 1),
        first=forest_of(np.stack([x for _, x in first]), np.array([y for y, _ in first]), LEAF, seed + 2),
        errors={1: math.inf},
        reach=(10 ** min(strengths), 10 ** max(strengths)),
    )


@dataclass(frozen=True)
class Tried:
    """What the prober made of one configuration: its errors after each probe, and the steps until then.

    ``start``: the error of the first guess. ``distances``: what each probe read. ``ended``: after how many the prober
    would have ended.
    """

    case: Case
    start: float
    errors: tuple[float, ...]
    distances: tuple[float, ...]
    steps: tuple[int, ...]
    ended: int

    @property
    def error(self) -> float:
        """Of what the prober would have told, in decades."""
        return self.errors[self.ended - 1]


def tried(case: Case, reader: Reader, most: int = PROBES, begin: float | None = None) -> Tried:
    """The prober on a recorded configuration: each probe that it asks for is the nearest one that was recorded.

    ``begin``: log₁₀ of the first strength, else it is guessed.
    """
    prober = Prober({case.configuration.group: reader}, case.configuration.penalty, most=most)
    prober.free.append(case.free)
    left = list(case.late if case.is_late else case.probes)
    start = at = reader.guess(case.free, case.first[0]) if begin is None else begin
    spent = case.spent + (round(2 * min(case.escape, HORIZON)) if case.is_late else 0)
    errors: list[float] = []
    distances: list[float] = []
    steps: list[int] = []
    ended = 0
    while len(errors) < most and left:
        at = prober.place(at)
        probe = min(left, key=lambda p: abs(math.log10(p.strength) - at))
        left.remove(probe)
        prober.told.append((replace(case.free, strength=probe.strength), reader.read(probe.features)))
        spent += probe.steps
        errors.append(prober.level() - math.log10(case.level))
        distances.append(prober.told[-1][1])
        steps.append(spent)
        ended = ended or (len(errors) if prober.done else 0)
    start -= math.log10(case.level)
    return Tried(case, start, tuple(errors), tuple(distances), tuple(steps), ended or len(errors))


def held_out(known: Sequence[Case], seed: int = 0) -> list[Tried]:
    """Every configuration by a reader that has seen nothing of its family."""
    found = []
    for family, reader in without_each(known, seed).items():
        found += [tried(case, reader) for case in known if case.configuration.family == family]
    return found


def without_each(known: Sequence[Case], seed: int = 0) -> dict[str, Reader]:
    """For each family the reader of all others."""
    families = dict.fromkeys(case.configuration.family for case in known)
    return {f: fitted([c for c in known if c.configuration.family != f], seed) for f in families}


def interval(errors: Sequence[float]) -> float:
    """What 95 % of further errors stay below, by those seen (conformal: the ⌈.95 (n + 1)⌉-th smallest).

    Fewer than 19 have no such rank: then it is the wider one of the largest and of Student's t about 0.
    """
    ranked = sorted(abs(e) for e in errors)
    rank, count = math.ceil(CONFIDENCE * (len(ranked) + 1)), len(ranked)
    if rank <= count:
        return float(ranked[rank - 1])
    spread = math.sqrt(sum(e * e for e in ranked) / count)
    return float(max(ranked[-1], stats.t.ppf((1 + CONFIDENCE) / 2, count) * spread * math.sqrt(1 + 1 / count)))


def of_kind(found: Sequence[Case], kind: str) -> list[Case]:
    """Those with a level, of one kind, that escape within a run: of the others nothing is told."""
    known = [case for case in found if case.configuration.group == kind and math.isfinite(case.level) and case.probes]
    return [case for case in known if not math.isinf(case.escape)]


def in_words(results: Sequence[Tried], errors: dict[int, float]) -> str:
    """What came of families held out."""
    last = np.abs([r.error for r in results])
    shares = ", ".join(f"within {x:g}x {np.mean(last <= math.log10(x)):.2f}" for x in (1.2, 1.5))
    return (
        f"first guess {np.median(np.abs([r.start for r in results])):.3f}; median error {np.median(last):.3f} decades, "
        f"90 % {np.quantile(last, 0.9):.3f}; {shares}; intervals ± {', '.join(f'{e:.2f}' for e in errors.values())}; "
        f"steps {np.median([r.steps[r.ended - 1] for r in results]):.0f}"
    )


def written(place: Path, readers: dict[str, tuple[Reader, list[Case], list[Tried]]]) -> None:
    """Write a file of readers by kind, each with the cases it was taught and what came of families held out."""
    arrays: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for kind, (reader, known, results) in readers.items():
        errors = {n: interval([r.errors[min(n, len(r.errors)) - 1] for r in results]) for n in range(1, PROBES + 1)}
        told[kind] = {
            "errors": errors, "reach": reader.reach, "configurations": len({c.configuration.key for c in known}),
            "families": len({c.configuration.family for c in known}),
        }  # fmt: skip
        for part in ("whole", "near", "first"):
            arrays |= getattr(reader, part).arrays(f"{kind}.{part}")
        counts = f"{told[kind]['configurations']} configurations, {told[kind]['families']} families"
        print(f"{kind}: {counts}; {in_words(results, errors)}")
    facts = {"kinds": told, "sklearn": sklearn.__version__, "trees": TREES}
    np.savez_compressed(place, facts=json.dumps(facts), **arrays)
    print(f"{place}: {place.stat().st_size} bytes")


def fit_shipped() -> None:
    """Fit, measure, write."""
    by = {kind: of_kind(cases(), kind) for kind in KINDS}
    written(PLACE, {kind: (fitted(known), known, held_out(known)) for kind, known in by.items()})
