"""The tables of the study, from what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from analyses.common.markdown import markdown
from analyses.common.results import Results, Row
from analyses.common.statistics import mean
from analyses.common.study import Options, recorded_in
from analyses.modern_settings.plan import SETTINGS, cells

COLUMNS = (
    "weight decay", "runs", "last loss", "accuracy, or loss on other text", "fail by the label", "verdicts",
    "given at step", "scale-invariant", "norm, last over first", "beside the verdict",
)  # fmt: skip


def by_decay(rows: Sequence[Row]) -> dict[float, list[Row]]:
    """The runs of a setting by their weight decay, weakest first."""
    return {
        decay: [r for r in rows if r["weight_decay"] == decay] for decay in sorted({r["weight_decay"] for r in rows})
    }


def decays(rows: Sequence[Row]) -> str:
    """One line a weight decay."""
    lines = []
    for decay, some in by_decay(rows).items():
        metric = "accuracy" if "accuracy" in some[0] else "validation_loss"
        verdicts = sorted({row["verdict"] for row in some})
        decided = [str(row["decided"]) for row in some if row["decided"] is not None]
        lines.append([
            f"{decay:g}", len(some), mean([row["loss"] for row in some]), mean([row[metric] for row in some]),
            f"{sum(row['failed_by_label'] for row in some)} of {len(some)}", ", ".join(verdicts),
            ", ".join(decided) or None, f"{some[0]['invariant']} of {some[0]['of_parameters']}",
            f"{mean([row['weights'][1] / row['weights'][0] for row in some]).value:.2g}",
            ", ".join(sorted({name for row in some for name in row["findings"]})) or None,
        ])  # fmt: skip
    return markdown(COLUMNS, lines)


def tolerance(rows: Sequence[Row]) -> str:
    """Between which strengths runs begin to fail by the label, or that none does."""
    found = by_decay(rows)
    failing = [decay for decay, some in found.items() if any(row["failed_by_label"] for row in some)]
    if not failing:
        return f"none up to a weight decay of {max(found):g}, the strongest tried: no run fails by the label"
    below = [decay for decay in found if decay < min(failing)]
    every = [decay for decay, some in found.items() if all(row["failed_by_label"] for row in some)]
    learns = f"every run learns up to {max(below):g}" if below else "some run fails at the weakest"
    return f"{learns}, the first fails at {min(failing):g}" + (f", all at {min(every):g}" if every else "")


def wrong(rows: Sequence[Row]) -> str:
    """How often the verdict and the label part."""
    alarms = sum(row["failed"] and not row["failed_by_label"] for row in rows)
    missed = sum(row["failed_by_label"] and not row["failed"] for row in rows)
    return f"{len(rows)} runs: {alarms} false alarms, {missed} that fail by the label and are not called failing"


def sections(rows: Sequence[Row], asked: Options) -> Iterator[str]:
    """The text of the file, setting by setting."""
    for name, how in SETTINGS.items():
        some = [row for row in rows if row["setting"] == name]
        yield f"## {name}: {len(some)} of {len(cells(name, asked))} runs"
        if not some:
            continue
        rate = f"{how.lr:g}" + (f" after a warm-up of {how.warmup} steps" if how.warmup else "")
        trained = f"{how.optimizer}, rate {rate}, batch {how.batch}, {how.steps} steps"
        yield f"{trained}; the baseline loss is {some[0]['baseline']}."
        yield decays(some)
        yield f"Tolerance: {tolerance(some)}. Verdicts, {wrong(some)}."
        weakest, strongest = (edge(some, key=lambda row: row["weight_decay"]) for edge in (min, max))
        for row in (weakest, strongest):
            yield f"Told at {row['weight_decay']:g}, seed {row['seed']}: “{row['told']}”"


def tables(folder: Path) -> dict[str, str]:
    """All tables of what there is."""
    found = {}
    for asked in recorded_in(folder, seeds=3):
        rows = Results(asked.results).recorded()
        machines, days, pythons = (sorted({row[name] for row in rows}) for name in ("machine", "date", "python"))
        text = [
            f"Written by `python -m analyses plot modern_settings` from {asked.results.name}: {len(rows)} rows, "
            f"{', '.join(machines)}, {days[0]} to {days[-1]}, Python {', '.join(pythons)} (its library is the text). "
            "Means over seeds with 95 % intervals (Student's t), of one seed none.",
            *sections(rows, asked),
        ]
        found["tables.md"] = "\n\n".join(text) + "\n"
    return found
