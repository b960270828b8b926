"""Continue a record after a checkpoint: what the file knows that the new process does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.post_hoc import validation_losses
from gradscope.quantities import JUDGED, of_modules
from gradscope.store.record import Record


def baseline(path: Path) -> tuple[float, dict[str, Any]] | None:
    """Return the baseline that the run has had so far, and what its ``capture`` says of it; None if it had none."""
    with Record(path) as earlier:
        if earlier.baseline is None:
            return None
        names = (
            *("baseline_loss", "baseline_history", "loss_function", "loss_kind", "loss_takes_probabilities"),
            *("loss_of_zero", "part_of_loss"),
        )
        return earlier.baseline[0], {name: earlier.capture[name] for name in names if name in earlier.capture}


def first_step(path: Path, resume_step: int | None) -> int:
    """Return the step that comes next: that of the checkpoint, or the one after the last row."""
    if resume_step is not None:
        return resume_step
    with Record(path) as kept:
        return kept.steps_run


def remember(judge: Judge, rules: Checker, path: Path, first: int) -> None:
    """Show the judge and the rules the rows before ``first``, so that they go on where they were.

    A rank that does not measure knows no modules, and is shown nothing of them, as it was before.
    """
    unknown = () if judge.info.modules else of_modules("full")
    judged, needed = (tuple(name for name in names if name not in unknown) for names in (JUDGED, NEEDED))
    with Record(path) as kept:
        rules.of_epochs.update(validation_losses(kept.metrics))
        feed({judge: judged, rules: needed}, kept, before=first)
