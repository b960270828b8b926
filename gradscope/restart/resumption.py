"""Keep checkpoints of an attempt, and restart from the last one that was taken before the failure set in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradscope.restart.attempt import Attempt

#: Checkpoints kept of one attempt, and by how much further the run has to be for the next.
KEPT, SPACING = 5, 1.25


class KeptCheckpoints:
    """Checkpoints of one attempt, in a folder of their own: ``step-230.pt`` and so on.

    Few, and further apart the older they are: the failure that will be found began some time ago.

    Args:
        folder: made with the first checkpoint.
        callback: writes a checkpoint to the path that it is given.
    """

    def __init__(self, folder: Path, callback: Callable[[Path], object]) -> None:
        self._folder, self._callback = folder, callback
        self._last = 0

    def offer(self, step: int) -> None:
        """Take a checkpoint if the last one is old enough: an epoch begins with this step."""
        if step < max(1, SPACING * self._last):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._callback(self._folder / f"step-{step}.pt")
        self._last = step
        found = kept_in(self._folder)
        if len(found) > KEPT:
            for file in self._folder.glob(f"step-{_superfluous(sorted(found), step)}.*"):
                file.unlink()


def kept_in(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of a folder, by step."""
    return {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.pt") if path.stem[5:].isdigit()}


def last_healthy(folder: Path, onset: int | None) -> tuple[int, Path] | None:
    """Return step and path of the last checkpoint that was taken before the failure set in; None if there is none."""
    found = {step: path for step, path in kept_in(folder).items() if onset is not None and step <= onset}
    return (step := max(found), found[step]) if found else None


def _superfluous(steps: list[int], now: int) -> int:
    """Choose the step (neither first nor last) whose neighbours are closest together, measured against their age."""
    return min(
        zip(steps, steps[1:], steps[2:], strict=False), key=lambda three: (three[2] - three[0]) / (now - three[0] + 1)
    )[1]


@dataclass(frozen=True)
class Resumption:
    """Checkpoint to go on from.

    Attributes:
        checkpoint: its file.
        step: the one that comes next.
    """

    checkpoint: Path
    step: int


def checkpoints_beside(record: Path) -> Path:
    """Return the folder of an attempt's checkpoints."""
    return record.with_suffix(".checkpoints")


def resumption(failed: Attempt, path: Path) -> Resumption | None:
    """Find the checkpoint of the failed attempt that the next one goes on from, and copy the record.

    The record of the next attempt begins as a copy: the recording drops the rows from the checkpoint on, so that it
    holds the whole run, and its judge remembers it.

    Args:
        failed: the attempt that failed.
        path: where the next one records.

    Returns:
        The last checkpoint from before the failure set in; None where there is none.
    """
    found = last_healthy(checkpoints_beside(failed.path), failed.diagnosis.onset_step)
    if found is None or found[0] < failed.first_step:
        return None
    shutil.copyfile(failed.path, path)
    return Resumption(found[1], found[0])
