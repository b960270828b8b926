"""Tables of what gradscope itself did to the runs, and said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analyses.common.markdown import markdown
from analyses.common.results import Row
from analyses.strong_regularization.plan import FIRST_SEED
from analyses.strong_regularization.reading import chosen
from gradscope.tolerance.posterior import estimate_tolerance
from gradscope.trials.trial import Outcome


def diagnostics(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Title and text of each table of which there are rows."""
    if any("alarm" in row for row in rows):
        yield "The judge", judged(rows)
    if any("said" in row for row in rows):
        yield "Trials that a search ended, trained to their end", audits(rows)
    if any(row.get("recording") for row in rows):
        yield "Recording", recordings(rows)


def judged(rows: Sequence[Row]) -> str:
    """The judge at the end of every epoch against the label at the end of the run, and the first step it could know.

    A false alarm is a run that learns by the label and was called failing after any epoch. Rows that do not say what
    the judge said on the way are left out.
    """
    known = [row for row in chosen(rows) if "alarm" in row]
    lines: list[list[object]] = []
    for net, penalty, schedule in sorted({(row["net"], row["penalty"], row["schedule"]) for row in known}):
        some = [r for r in known if (r["net"], r["penalty"], r["schedule"]) == (net, penalty, schedule)]
        failing = [row for row in some if row["failed"]]
        alarms = sum(row["alarm"] is not None for row in some if not row["failed"])
        steps = [row["decided"] for row in failing if row["decided"] is not None]
        called = sum(row["alarm"] is not None for row in failing)
        decided = f"{min(steps)} to {max(steps)}" if steps else None
        ended = sum(row["ended"] is not None for row in some)
        lines.append([net, penalty, schedule, len(some), len(failing), called, decided, ended, alarms])
    columns = ("net", "penalty", "schedule", "runs", "fail", "called on the way", "at step", "ended early")
    return markdown((*columns, "false alarms"), lines)


def audits(rows: Sequence[Row]) -> str:
    """What the search was told of its trials near a level against what the same runs come to.

    The last column is the level that all its trials from the start give once these outcomes stand in their places.
    """
    known = [row for row in rows if "said" in row]
    lines: list[list[object]] = []
    for net, penalty in sorted({(row["net"], row["penalty"]) for row in known}):
        some = [row for row in known if (row["net"], row["penalty"]) == (net, penalty)]
        failing, learning = ([r for r in some if (r["said"] >= 0.5) == failed] for failed in (True, False))
        strengths = [row["strength"] for row in some]
        right = sum(row["failed"] for row in failing), sum(not row["failed"] for row in learning)
        lines.append([net, penalty, f"{min(strengths):.3g} to {max(strengths):.3g}"])
        lines[-1] += [f"{count} of {len(part)}" for count, part in zip(right, (failing, learning), strict=True)]
        searched = next(row for row in rows if row.get("search") and (row["net"], row["penalty"]) == (net, penalty))
        trials = dict(enumerate(searched["trials_of"][: searched["trials_from_start"]]))
        trials |= {row["seed"] - FIRST_SEED: [row["strength"], float(row["failed"])] for row in some}
        found = estimate_tolerance([Outcome(*trial) for trial in trials.values()])
        lines[-1].append(f"{found.tolerance:.3g} ({found.low:.3g} … {found.high:.3g})" if found.determined else None)
    columns = ("net", "penalty", "λ", "called failing, fail", "called learning, learn", "λ* by these")
    return markdown(columns, lines)


def recordings(rows: Sequence[Row]) -> str:
    """Whether a recording leaves the weights as they are, and what it costs."""
    lines = []
    for row in (row for row in rows if row.get("recording")):
        same = f"{'equal' if row['identical'] else 'different'} after {row['steps']} steps"
        lines.append([row["net"], row["seed"], same, *(cost(row[clock]) for clock in ("wall", "processor"))])
    columns = ("net", "seed", "weights, bit by bit", "time of a step over time without", "of the processor")
    return markdown(columns, lines)


def cost(found: Row) -> str:
    """A ratio with its quartiles and what it is of."""
    low, high = found["quartiles"]
    return f"{found['ratio']:.2f} ({low:.2f} to {high:.2f}) of {found['ms_without']:.0f} ms"
