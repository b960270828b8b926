"""A restart from the last healthy checkpoint: which one, and a record that goes on where it was taken."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gradscope.control.attempt import Attempt
from gradscope.control.checkpoint import last_healthy


@dataclass(frozen=True)
class Resumption:
    """The checkpoint to go on from, and the step that comes next."""

    checkpoint: Path
    step: int


def checkpoints_beside(record: Path) -> Path:
    """The folder of an attempt's checkpoints."""
    return record.with_suffix(".checkpoints")


def resumption(failed: Attempt, path: Path) -> Resumption | None:
    """How the next attempt, recorded at ``path``, can go on from a checkpoint of the one that failed; None: it cannot.

    Healthy is what was taken before the failure set in. The record of the next attempt begins as a copy: the recording
    drops the rows from the checkpoint on, so that it holds the whole run, and its judge remembers it.
    """
    found = last_healthy(checkpoints_beside(failed.path), failed.diagnosis.onset_step)
    if found is None or found[0] < failed.first_step:
        return None
    shutil.copyfile(failed.path, path)
    return Resumption(found[1], found[0])
