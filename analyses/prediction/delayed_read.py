"""How well branches of a learned net tell the delayed level, families held out; trains nothing but forests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analyses.common.markdown import markdown
from analyses.common.results import Results, Row
from analyses.prediction import delayed
from analyses.prediction.data import Case
from analyses.prediction.delayed_fit import as_case, held_out, of_delay
from analyses.prediction.fit import Tried, fitted, interval, tried
from analyses.prediction.held_out import FACTORS, Found, coverage, figures, mean_level
from gradscope.prediction.ask_tell import PROBES
from gradscope.prediction.level_reader import Reader, scaled

#: Decades by which a delayed level lies clearly above the one from the start.
APART = 0.15


@dataclass(frozen=True)
class Shifted(Reader):
    """A reader of probes from the start, less what it reads of branches at their level."""

    shift: float = 0.0

    def read(self, x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        """û from the features of a branch, [F]."""
        return super().read(x) - self.shift


def family(case: Case) -> str:
    """Its name."""
    return case.configuration.family


class Study:
    """The configurations with a delayed level. ``starts``: what was predicted of the level from the start."""

    def __init__(self, found: Found, folder: Path) -> None:
        _, results, self.readers = found["direct"]
        self.rows = {row["key"]: row for row in Results(folder / delayed.FILE).rows() if row["when"] == "twice"}
        self.starts = [r for r in results if self.row(r.case).get("determined")]
        self.families = list(dict.fromkeys(family(r.case) for r in self.starts))
        self._made: dict[tuple[str, int], Reader] = {}

    def row(self, case: Case) -> Row:
        """What was measured of a configuration; nothing where it was not."""
        return self.rows.get(case.configuration.key, {})

    def apart(self, r: Tried) -> float:
        """Decades by which the delayed level lies above the one from the start."""
        return math.log10(self.row(r.case)["level"] / r.case.level)

    def others(self, r: Tried) -> list[Tried]:
        """Those of other families."""
        return [q for q in self.starts if family(q.case) != family(r.case)]

    def from_measured(self, r: Tried) -> float:
        """log₁₀ of the delayed level by the measured one from the start and the ratio of other families."""
        return math.log10(r.case.level) + float(np.mean([self.apart(q) for q in self.others(r)]))

    def from_predicted(self, r: Tried) -> float:
        """The same by the predicted one."""
        ratio = np.mean([self.apart(q) - q.error for q in self.others(r)])
        return math.log10(r.case.level) + r.error + float(ratio)

    def from_mean(self, r: Tried) -> float:
        """The geometric mean of the delayed levels of other families."""
        cases = [as_case(q.case, self.row(q.case), max(delayed.ROWS)) for q in self.others(r)]
        return mean_level(cases, r.case) - scaled(1.0, r.case.free)

    def errors(self, predict: Callable[[Tried], float]) -> list[float]:
        """Of a prediction of log₁₀ of the delayed level."""
        return [predict(r) - math.log10(self.row(r.case)["level"]) for r in self.starts]

    def pulled(self, r: Tried, rows: int) -> float:
        """log₁₀ of what the loss bears of a branch twice as strong as is to be expected; SGD only."""
        row = self.row(r.case)
        at = self.from_predicted(r) + math.log10(2 / row["level"])
        return float(min(row["branches"], key=lambda b: abs(b["place"] - at))[f"restoring-{rows}"][0])

    def by_pull(self, rows: int) -> list[float]:
        """Errors of that, less its median in other families."""
        plain = [r for r in self.starts if not r.case.free.adaptive]
        raw = {id(r): self.pulled(r, rows) - math.log10(self.row(r.case)["level"]) for r in plain}
        return [
            raw[id(r)] - float(np.median([raw[id(q)] for q in plain if family(q.case) != family(r.case)]))
            for r in plain
        ]

    def read(
        self, reader: Callable[[str, list[Case]], Reader], rows: int, start: Callable[[Tried], float]
    ) -> list[Tried]:
        """Every configuration by a reader that is made without its family."""
        found = []
        for name in self.families:
            mine = [r for r in self.starts if family(r.case) == name]
            made = reader(name, [as_case(q.case, self.row(q.case), rows) for q in self.others(mine[0])])
            found += [tried(as_case(r.case, self.row(r.case), rows), made, begin=start(r)) for r in mine]
        return found

    def usual(self, name: str, others: list[Case]) -> Reader:
        """The reader of probes from the start."""
        return self.readers[name]

    def shifted(self, name: str, others: list[Case]) -> Reader:
        """The same, less its median error on the branches nearest to the levels of other families, two of each."""
        reader = self.readers[name]
        near = [b for case in others for b in sorted(case.probes, key=lambda b: abs(b.place))[:2]]
        off = [reader.read(b.features) - b.place for b in near]
        return Shifted(reader.whole, reader.near, reader.first, reader.errors, reader.reach, float(np.median(off)))

    def of_branches(self, name: str, others: list[Case]) -> Reader:
        """A reader made of branches."""
        at = name, others[0].probes[0].steps
        if at not in self._made:
            self._made[at] = fitted(others)
        return self._made[at]


def line(name: str, steps: str, errors: Sequence[float]) -> list[str]:
    """A way, in a table."""
    return [name, steps, f"{np.median(errors):+.2f}", *figures(errors).values()]


def told(found: Found, folder: Path) -> str:
    """The tables."""
    study = Study(found, folder)
    lines = [
        line("geometric mean of other families", "0", study.errors(study.from_mean)),
        line("measured level from the start, times the ratio of other families", "", study.errors(study.from_measured)),
        line("predicted level from the start, times that ratio", "0", study.errors(study.from_predicted)),
    ]
    few, many = delayed.ROWS
    lines += [
        line(f"−⟨w, g⟩/2‖w‖² at its greatest, SGD only, 1 branch of {count}", str(count), study.by_pull(count))
        for count in delayed.ROWS
    ]
    ways: dict[str, list[Tried]] = {
        f"the reader of probes from the start, branches of {few}": study.read(study.usual, few, study.from_predicted),
        f"the same, less its median error, branches of {few}": study.read(study.shifted, few, study.from_predicted),
        f"the same, branches of {many}": study.read(study.shifted, many, study.from_predicted),
        f"a reader of branches, of {few}": study.read(study.of_branches, few, study.from_predicted),
        f"a reader of branches, of {many}, from the geometric mean": study.read(
            study.of_branches, many, study.from_mean
        ),
        f"**a reader of branches, of {many}**": study.read(study.of_branches, many, study.from_predicted),
    }
    for name, results in ways.items():
        counts = range(1, PROBES + 1) if "reader of branches" in name else (PROBES,)
        for n in counts:
            count = f"{n} branch{'es' * (n > 1)}"
            errors = [r.errors[min(n, len(r.errors)) - 1] for r in results]
            lines.append(line(f"{name}: {count}", f"{np.median([r.steps[n - 1] for r in results]):.0f}", errors))
    best = list(ways.values())[-1]
    by = {r.case.configuration.key: r for r in best}
    per = [
        [name, str(len(some)), f"{np.median([study.apart(r) for r in some]):+.2f}",
         *line("", "", [by[r.case.configuration.key].errors[-1] for r in some])[2:]]
        for name, some in _parts(study)
    ]  # fmt: skip
    rows = [study.row(r.case) for r in study.starts]
    widths = [math.log10(row["high"] / row["low"]) / 2 for row in rows]
    apart = [study.apart(r) for r in study.starts]
    last = [replace(r, ended=len(r.errors)) for r in best]
    columns = ["way", "steps after the learned net", "median, signed", "median error", "90 %", *FACTORS]
    silent = [f"{row['key']} ({row['reason']})" for row in study.rows.values() if not row["determined"]]
    text = [
        "Written by `python -m analyses plot prediction` from probes.npz and delayed.jsonl.", "",
        f"{len(rows)} configurations of {len(study.families)} families under SGD and AdamW have a delayed level; its "
        f"own 95 % interval is ± {np.median(widths):.3f} decades in the median. It lies {np.median(apart):+.2f} "
        f"decades above the level from the start in the median, {np.quantile(apart, 0.1):+.2f} to "
        f"{np.quantile(apart, 0.9):+.2f} in four of five, {max(apart):+.2f} at most. No level: "
        f"{'; '.join(silent) or 'none'}.", "",
        "Families held out, errors in decades, 95 % intervals over configurations:", "",
        markdown(columns, lines), "",
        f"By the last line, with an interval of ± {interval([r.error for r in last]):.2f} decades, which other "
        f"families earn; it holds {coverage(last):.3f} of the levels:", "",
        markdown(["configurations", "", "delayed over start, decades", *columns[2:]], per), "",
        *_shipped(study, folder),
    ]  # fmt: skip
    return "\n".join(text)


def _shipped(study: Study, folder: Path) -> list[str]:
    """What the product reads: at the delay that ``delayed:auto`` waits for, from its own first guess."""
    by = {when: of_delay(when, folder) for when in delayed.WHENS}
    asked, both = by["auto"], [case for known in by.values() for case in known]
    levels = {case.configuration.key: case.level for case in by["twice"]}
    starts = {r.case.configuration.key: r.case.level for r in study.starts}
    found = {row["key"]: row for row in Results(folder / delayed.FILE).rows() if row["when"] == "auto"}
    ways = {"at twice the escape": held_out(asked, by["twice"]), "in the active phase": held_out(asked, asked),
            "**at both, as shipped**": held_out(asked, both)}  # fmt: skip
    lines = []
    for name, results in ways.items():
        for n in range(1, PROBES + 1):
            errors = [r.errors[min(n, len(r.errors)) - 1] for r in results]
            lines.append(line(f"branches {name}: {n}", "", errors))
        lines.append(line(f"branches {name}: as `suggest` ends", "", [r.error for r in results]))
    results = ways["**at both, as shipped**"]
    delays = [found[r.case.configuration.key]["delay"] for r in results]
    steps = [delay * (1 + r.ended) + max(delayed.ROWS) * r.ended for delay, r in zip(delays, results, strict=True)]
    kinds = {
        name: [r for r in results if family(r.case) == name] for name in dict.fromkeys(family(r.case) for r in results)
    }
    kinds["SGD"] = [r for r in results if not r.case.free.adaptive]
    kinds["AdamW"] = [r for r in results if r.case.free.adaptive]
    per = [line(f"{name} ({len(some)})", "", [r.error for r in some]) for name, some in kinds.items()]
    over = {
        name: [
            math.log10(r.case.level / those[r.case.configuration.key])
            for r in results
            if r.case.configuration.key in those
        ]
        for name, those in (("twice", levels), ("start", starts))
    }
    columns = ["", "", "median, signed", "median error", "90 %", *FACTORS]
    silent = [f"{row['key']} ({row['reason']})" for row in found.values() if not row["determined"]]
    words = ", ".join(
        f"{np.median(some):+.2f} ({np.quantile(some, 0.1):+.2f} to {np.quantile(some, 0.9):+.2f} in four of five) "
        f"decades above that {'at twice the escape' if name == 'twice' else 'from the start'}"
        for name, some in over.items()
    )
    return [
        "## In the active phase, as `gradscope suggest --delayed` asks", "",
        f"{len(results)} configurations have a level with the delay of `delayed:auto`, {min(delays)} to {max(delays)} "
        f"steps ({np.median(delays):.0f} in the median). It lies {words}. No level: {'; '.join(silent) or 'none'}.", "",
        "From the reader's own first guess, families held out:", "",
        markdown(["taught by", *columns[2:]], [[row[0], *row[2:]] for row in lines]), "",
        f"The interval that other families earn is ± {interval([r.error for r in results]):.2f} decades, and holds "
        f"{coverage(results):.3f}. Each branch trained again: {np.median(steps):.0f} steps in the median "
        f"({min(steps)}-{max(steps)}).", "",
        markdown(["as shipped", *columns[2:]], [[row[0], *row[2:]] for row in per]), "",
    ]  # fmt: skip


def _parts(study: Study) -> list[tuple[str, list[Tried]]]:
    parts = [(name, [r for r in study.starts if family(r.case) == name]) for name in study.families]
    far = f"delayed level {10**APART:.1f}x that from the start, or more"
    parts.append((far, [r for r in study.starts if study.apart(r) >= APART]))
    parts.append(("all others", [r for r in study.starts if study.apart(r) < APART]))
    return parts
