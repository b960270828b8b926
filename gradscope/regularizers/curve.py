"""A strength schedule as a curve of numbers, and as a small drawing for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope import checks
from gradscope.regularizers.schedule import Moment, Schedule
from gradscope.types import InputError

#: Decades that a learning rate falls through in the curve of a schedule that follows it.
DECADES = 4
EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class ScheduleCurve:
    """Strength along an axis.

    Attributes:
        axis: name of the axis, such as ``step``.
        at: places on it.
        strength: λ_t at each place.
        note: what had to be supposed, empty if nothing.
    """

    axis: str
    at: list[float]
    strength: list[float]
    note: str


def curve(schedule: Schedule, steps: int, steps_per_epoch: int | None = None, points: int = 60) -> ScheduleCurve:
    """Compute λ_t over ``steps`` steps at up to ``points`` places; other axes where time alone does not decide.

    A schedule that follows the learning rate is drawn over a rate that falls through four decades, one that bounds a
    norm over that norm.

    Args:
        schedule: the schedule.
        steps: length of the training.
        steps_per_epoch: needed where the schedule counts epochs.
        points: places at most.

    Returns:
        The curve.

    Raises:
        InputError: epochs are counted and ``steps_per_epoch`` is not given, or the strength follows from the training
            itself (a controller).
    """
    checks.positive_int(steps, "steps")
    if schedule.stands != "anywhere":
        raise InputError(
            f"the strength of {schedule.text} follows from the training itself, so there is no curve to draw; "
            f"the record of a run holds it (the variable strength, and the events)"
        )
    if schedule.needs_epochs and steps_per_epoch is None:
        raise InputError(f"{schedule.text} counts epochs; give --steps-per-epoch")
    count = min(points, steps)
    shares = [i / max(1, count - 1) for i in range(count)]
    notes = []
    if schedule.needs_record:
        schedule.active_phase(steps // 4)
        notes.append(f"drawn as if the active phase came at step {steps // 4}")
    moments = []
    for share in shares:
        step = round(share * (steps - 1))
        epoch = step // steps_per_epoch if steps_per_epoch is not None else -1
        norms = {schedule.needs_norm: _bound(schedule) * 2 * (1 - share)} if schedule.needs_norm else {}
        moments.append(Moment(step, epoch, 10.0 ** (-DECADES * share), 1.0, norms))
    axis, at = "step", [float(moment.step) for moment in moments]
    if schedule.needs_rate:
        axis, at = "learning rate over its highest", [moment.learning_rate for moment in moments]
        notes.append(f"drawn over a learning rate that falls through {DECADES} decades in {steps} steps")
    if schedule.needs_norm:
        name = "‖w‖₁" if schedule.needs_norm == "l1" else "‖w‖₂"
        axis, at = name, [moment.norms[schedule.needs_norm] for moment in moments]
        notes.append("drawn over a norm that falls from twice the bound to 0")
    return ScheduleCurve(axis, at, [schedule.strength_at(moment) for moment in moments], "; ".join(notes))


def _bound(schedule: Schedule) -> float:
    parts: Sequence[Schedule] = getattr(schedule, "parts", ())
    found = [getattr(schedule, "bound", 0.0), *(_bound(part) for part in parts)]
    return float(max(found))


def drawn(found: ScheduleCurve, height: int = 6) -> str:
    """Draw the curve as lines of block characters, the highest strength at the top, with its axes named."""
    highest = max(found.strength) or 1.0
    label = f"{highest:.4g}"
    lines = []
    for row in reversed(range(height)):
        cells = [round(8 * min(1.0, max(0.0, value / highest * height - row))) for value in found.strength]
        left = label if row == height - 1 else "0" if row == 0 else ""
        lines.append(f"{left:>{len(label)}} ┤" + "".join(EIGHTHS[cell] for cell in cells))
    width = len(found.at)
    first, last = f"{found.at[0]:.4g}", f"{found.at[-1]:.4g}"
    lines.append(" " * len(label) + " └" + "─" * width)
    lines.append(" " * (len(label) + 2) + f"{first}{found.axis:^{max(0, width - len(first) - len(last))}}{last}")
    return "\n".join(lines)
