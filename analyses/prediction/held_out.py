"""How well the level is predicted, families held out (minutes; trains nothing)."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from analyses.common.markdown import markdown
from analyses.prediction.data import Case, cases
from analyses.prediction.equal_steps import at_the_same_steps
from analyses.prediction.fit import Tried, interval, of_kind, tried, without_each
from gradscope.prediction.ask_tell import INVARIANT, PROBES
from gradscope.prediction.level_reader import Reader, scaled

Array = NDArray[np.float64]

#: Decades that are a factor of 1.2 and of 1.5.
Found = dict[str, tuple[list[Case], list[Tried], dict[str, Reader]]]
FACTORS = {"within 1.2x": math.log10(1.2), "within 1.5x": math.log10(1.5)}
COLUMNS = (
    "configuration", "family", "optimizer", "penalty", "lr", "batch", "level", "low", "high", "escape", "start",
    "error", "steps", "probes",
)  # fmt: skip
NAMES = {"direct": "SGD and AdamW", "coupled": "Adam, coupled decay", "l1": "L1, proximal"}
LENGTHS = (400, 1150, 4000)


def figures(errors: Sequence[float]) -> dict[str, str]:
    """Median, 90 % and shares of these errors, each with a 95 % interval from 1,000 draws of configurations."""
    sizes = np.abs(np.asarray(errors, dtype=float))
    random = np.random.default_rng(0)
    drawn = sizes[random.integers(len(sizes), size=(1000, len(sizes)))]

    def told(of: Callable[[Array], Array], digits: int) -> str:
        low, high = np.quantile(of(drawn), [0.025, 0.975])
        return f"{float(of(sizes[None])[0]):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    found = {
        "median error": told(lambda x: np.median(x, axis=1), 3),
        "90 %": told(lambda x: np.quantile(x, 0.9, axis=1), 2),
    }
    return found | {
        name: told(lambda x, most=most: np.mean(x <= most, axis=1), 2)  # type: ignore[misc]
        for name, most in FACTORS.items()
    }


# -- what else could be done ----------------------------------------------------------------------


def by_family(known: Sequence[Case], predict: Callable[[list[Case], Case], float]) -> list[float]:
    """Errors of a prediction of log₁₀ λ* (times the rate under AdamW) from the cases of other families."""
    found = []
    for case in known:
        others = [c for c in known if c.configuration.family != case.configuration.family]
        found.append(predict(others, case) - scaled(case.level, case.free))
    return found


def mean_level(others: list[Case], case: Case) -> float:
    """The geometric mean."""
    return float(np.mean([scaled(c.level, c.free) for c in others if c.free.adaptive == case.free.adaptive]))


def ridge(columns: Callable[[Case], list[float]]) -> Callable[[list[Case], Case], float]:
    """A linear prediction, ridge 1, columns standardised."""

    def predict(others: list[Case], case: Case) -> float:
        x = np.array([columns(c) for c in others])
        y = np.array([scaled(c.level, c.free) for c in others])
        middle, spread = x.mean(0), x.std(0) + 1e-9
        x = (x - middle) / spread
        weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (y - y.mean()))
        return float(((np.array(columns(case)) - middle) / spread) @ weights + y.mean())

    return predict


def power_law(case: Case) -> list[float]:
    """Depth, width, rate with the gain of momentum, batch."""
    c = case.configuration
    gain = c.lr / (1 - c.momentum)
    return [math.log(c.layers), math.log(c.width), math.log(gain), math.log(c.batch), float(case.free.adaptive)]


def bisection(case: Case, reader: Reader, others: list[Case], probes: int) -> float:
    """By the side alone: half a decade about the mean level, halved by each probe's sign."""
    shift = scaled(1.0, case.free)
    at, stride = mean_level(others, case) - shift, 0.5
    held = case.late if case.is_late else case.probes
    for _ in range(probes):
        near = [abs(math.log10(probe.strength) - at) for probe in held]
        at -= math.copysign(stride, reader.read(held[int(np.argmin(near))].features))
        stride /= 2
    return at - math.log10(case.level)


def baselines(
    known: list[Case], results: list[Tried], readers: dict[str, Reader]
) -> list[tuple[str, str, list[float]]]:
    """Name, steps, errors; ``readers``: without each family."""
    sides: dict[int, list[float]] = {3: [], 5: []}
    for family, reader in readers.items():
        others = [c for c in known if c.configuration.family != family]
        for case in (c for c in known if c.configuration.family == family):
            for count in sides:
                sides[count].append(bisection(case, reader, others, count))
    found = [
        ("geometric mean of the other families", "0", by_family(known, mean_level)),
        ("power law in depth, width, rate, batch", "0", by_family(known, ridge(power_law))),
        ("ridge on a run without a penalty", "17-32", by_family(known, ridge(lambda c: list(c.first[0])))),
        ("trees on a run without a penalty (the first guess)", "17-32", [r.start for r in results]),
    ]
    found += [(f"bisection by the side, {n} probes", "", errors) for n, errors in sides.items()]
    found.append(("the search at the steps of the last line", "", at_the_same_steps(results)))
    for n in range(1, PROBES + 1):
        steps = [r.steps[min(n, len(r.steps)) - 1] for r in results]
        found.append(
            (
                f"{n} probe{'s' * (n > 1)}",
                f"{np.median(steps):.0f}",
                [r.errors[min(n, len(r.errors)) - 1] for r in results],
            )
        )
    steps = [r.steps[r.ended - 1] for r in results]
    told = f"{np.median(steps):.0f} ({min(steps)}-{max(steps)})"
    return [*found, ("**as `gradscope suggest` ends**", told, [r.error for r in results])]


# -- tables ---------------------------------------------------------------------------------------


def coverage(results: list[Tried]) -> float:
    """The share of configurations that lie in an interval which the other families have earned."""
    inside = []
    for family in dict.fromkeys(r.case.configuration.family for r in results):
        most = interval([r.error for r in results if r.case.configuration.family != family])
        inside += [abs(r.error) <= most for r in results if r.case.configuration.family == family]
    return float(np.mean(inside))


def tables(everything: list[Case], found: Found) -> str:
    """All of them, as Markdown."""
    lines = ["Written by `python -m analyses plot prediction` from probes.npz.", ""]
    columns = ["", "steps", "median error", "90 %", *FACTORS]
    for kind, (known, results, readers) in found.items():
        lines += [
            f"## {NAMES[kind]}: {len(known)} configurations of {len({c.configuration.family for c in known})} families",
            "",
        ]
        rows = [[name, steps, *figures(errors).values()] for name, steps, errors in baselines(known, results, readers)]
        lines += [
            markdown(columns, rows),
            "",
            f"Coverage of the 95 % interval, earned by the other families: {coverage(results):.3f}.",
            "",
        ]
        families = dict.fromkeys(r.case.configuration.family for r in results)
        per = []
        for family in families:
            own = [r for r in results if r.case.configuration.family == family]
            bias = np.median([r.error for r in own])
            per.append([family, len(own), f"{bias:+.2f}", *figures([r.error for r in own]).values()])
        lines += [markdown(["family", "configurations", "median, signed", "median error", "90 %", *FACTORS], per), ""]
    every = [r for _, results, _ in found.values() for r in results]
    lines += ["## What it costs", ""]
    steps = np.array([r.steps[r.ended - 1] for r in every if not r.case.is_late])
    late = np.array([r.steps[r.ended - 1] for r in every if r.case.is_late])
    costs = [[str(n), *(f"{np.median(s) / n:.0%}" if len(s) else "–" for s in (steps, late))] for n in LENGTHS]
    lines += [markdown(["steps of a run", f"share, {len(steps)} nets", f"share, {len(late)} late nets"], costs), ""]
    lines += ["## Where it says nothing", ""]
    normalised = [c for c in everything if c.configuration.family == "normalised"]
    others = [c for c in everything if c.configuration.family != "normalised" and c.learns]
    silent = [c for c in others if c.invariant >= INVARIANT or math.isinf(c.escape)]
    named = ", ".join(c.configuration.key for c in silent) or "none"
    lines += [
        f"Normalised nets: {sum(c.invariant >= INVARIANT for c in normalised)} of {len(normalised)}. Others that learn "
        f"within 400 steps: {len(silent)} of {len(others)} ({named}). {sum(not c.learns for c in everything)} more do "
        f"not learn without a penalty.",
        "",
    ]
    return "\n".join(lines)


def rows(found: Found) -> str:
    """A line a configuration, as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for _, results, _ in found.values():
        for r in results:
            c, at = r.case.configuration, r.case
            shown = (f"{x:.4g}" for x in (at.level, at.low, at.high, at.escape, r.start, r.error))
            table.writerow(
                [c.key, c.family, c.optimizer, c.penalty, c.lr, c.batch, *shown, r.steps[r.ended - 1], r.ended]
            )
    return text.getvalue()


def draw(results: list[Tried], path: Path) -> None:
    """Predicted against measured, and the errors by family."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    families = list(dict.fromkeys(r.case.configuration.family for r in results))
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, len(families)))
    for colour, family in zip(colours, families, strict=True):
        own = [r for r in results if r.case.configuration.family == family]
        level = np.array([10 ** scaled(r.case.level, r.case.free) for r in own])
        left.loglog(level, level * 10 ** np.array([r.error for r in own]), "o", color=colour, label=family, ms=5)
    ends = np.array(left.get_xlim())
    for factor in (1 / 1.5, 1, 1.5):
        left.loglog(ends, factor * ends, "-" if factor == 1 else ":", color="gray", lw=1)
    left.set(xlabel="measured level (AdamW: times the learning rate)", ylabel="predicted", title="Families held out")
    for place, family in enumerate(families):
        errors = [r.error for r in results if r.case.configuration.family == family]
        right.plot(errors, [place] * len(errors), "o", color=colours[place], alpha=0.7)
    right.set_yticks(range(len(families)), families)
    right.axvspan(-FACTORS["within 1.5x"], FACTORS["within 1.5x"], color="gray", alpha=0.15)
    right.set(xlabel="log10(predicted / measured)", title="Where it errs (grey: within 1.5x)")
    figure.savefig(path, dpi=110)


@functools.cache
def tried_all() -> Found:
    """Every kind, fitted with each family held out."""
    everything, found = cases(), {}
    for kind in NAMES:
        known = of_kind(everything, kind)
        readers = without_each(known)
        results = [tried(c, r) for family, r in readers.items() for c in known if c.configuration.family == family]
        found[kind] = known, results, readers
    return found
