"""Going on with a record after a checkpoint: what the file knows that the new process does not.

The reader is imported where a record is read: a run that begins anew starts .7 s earlier without xarray.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.rules import post_hoc as rules_post_hoc
from gradscope.diagnosis.rules.checker import Checker
from gradscope.types import InputError


def checked_step(step: int | None, mode: str) -> int | None:
    """``resume_step``, which goes with ``mode="append"`` only."""
    if step is None:
        return None
    if mode != "append":
        raise InputError(f"resume_step is {step!r} and mode is {mode!r}; resume_step goes with mode='append'")
    if not isinstance(step, int) or step < 0:
        raise InputError(f"resume_step is {step!r}; expected a whole number of at least 0")
    return step


def baseline(path: Path) -> tuple[float, str] | None:
    """The baseline that the run has had so far, and where it came from; None if it had none."""
    from gradscope.store.reader import open_run

    with open_run(path) as earlier:
        value = float(earlier.attrs.get("baseline_loss", math.nan))
        source = json.loads(earlier.attrs["capture"]).get("baseline_loss")
    return None if source is None or math.isnan(value) else (value, str(source))


def first_step(path: Path, resume_step: int | None) -> int:
    """The step that comes next: that of the checkpoint, or the one after the last row."""
    if resume_step is not None:
        return resume_step
    from gradscope.store.reader import open_run

    with open_run(path) as kept:
        steps = kept["step"].values
    return int(steps[-1]) + 1 if len(steps) else 0


def remember(judge: Judge, rules: Checker, path: Path, first: int) -> None:
    """Show the judge and the rules the rows before ``first``, so that they go on where they were."""
    from gradscope.store.reader import epoch_metrics, open_run

    rules.of_epochs.update(rules_post_hoc.validation_losses(epoch_metrics(path)))
    with open_run(path) as kept:
        before = kept.isel(step=kept["step"].values < first)
        feed(judge, before)
        rules_post_hoc.feed(rules, before)
