"""Read the tolerance level off the first rows of a recording, and warn of a strength that lies far beyond it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.prediction.ask_tell import ROWS, SHORTEST, rows_needed
from gradscope.prediction.from_record import FEW_ACTED, LATE_ROWS, NO_PENALTY, begins, unreadable, warning_of
from gradscope.prediction.rows import NEEDED, Probe, probe_from, share_invariant
from gradscope.recorder.host_rows import Block
from gradscope.recording.live_judge import CHUNK, LiveJudge
from gradscope.recording.notes import FindingWarning, Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.types import InputError


class StrengthCheck:
    """Consumer of rows that compares the strength with the level that the first of them read, once.

    Stands behind the judge, which settles the baseline. What it has read, or why it could not, is in the capture as
    ``strength_check``.
    """

    def __init__(self, notes: Notes, live: LiveJudge, penalties: PenaltyTracker) -> None:
        self._notes, self._live, self._penalties = notes, live, penalties
        self._held: list[Block] = []
        self._over = False

    def append(self, block: Block) -> None:
        """Take rows until there are enough, and look at them."""
        if self._over:
            return
        names = (*NEEDED, "learning_rate", "strength", "skipped", "step")
        self._held.append({name: block[name][:ROWS] for name in names if name in block})
        if sum(len(part["step"]) for part in self._held) < max(SHORTEST, CHUNK):
            return  # the judge knows no baseline yet
        shared = [name for name in names if all(name in part for part in self._held)]
        rows = {name: np.concatenate([part[name] for part in self._held])[:ROWS] for name in shared}
        try:
            said = self._look(rows)
        except InputError as error:
            said = f"not read: {error}"
        if said is not None:
            self._over, self._held = True, []
            self._notes.add(strength_check=said)

    def tick(self) -> None:
        """Do nothing: rows that wait for others go on waiting."""

    def _look(self, rows: dict[str, NDArray[Any]]) -> str | None:
        """Read the rows, and warn; return what is to be said of it, None where it takes more of them."""
        strength = self._strength(rows)
        if strength is None:
            return f"not read: {NO_PENALTY}"
        if not begins(rows["step"]):
            return f"not read: {LATE_ROWS}"
        probe = self._probe(rows, strength).acted(rows["skipped"])
        waits = len(rows["step"]) < ROWS
        if len(probe.step) < SHORTEST:
            return None if waits else f"not read: {FEW_ACTED}"
        if (needed := rows_needed(probe)) > len(probe.step) and waits:
            return None
        probe = probe.first(needed)
        invariant = share_invariant(rows["weight_norm"][0], self._live.judge.info, self._notes.capture)
        if (why := unreadable(probe, invariant)) is not None:
            return f"not read: {why}"
        if (said := warning_of(probe)) is None:
            return f"the first {len(probe.step)} steps do not read as far beyond the tolerance level"
        self._notes.writer.event(int(probe.step[-1]), "finding", said)
        self._notes.warn(FindingWarning(f"{self._notes.path}: {said}"))
        return said

    def _strength(self, rows: dict[str, NDArray[Any]]) -> float | None:
        """Return the one strength that has acted since the first row, if it was one."""
        groups = np.unique(self._penalties.group[self._penalties.penalised()])
        if self._penalties.schedule != "constant" or not len(groups) or "strength" not in rows:
            return None
        strongest = np.nan_to_num(rows["strength"][:, groups[groups >= 0]]).max(1, initial=0.0)
        value = float(f"{float(strongest[0]):.6g}")  # as it was given: rows are float32
        return value if value > 0 and bool((strongest == strongest[0]).all()) else None

    def _probe(self, rows: dict[str, NDArray[Any]], strength: float) -> Probe:
        info = replace(self._live.judge.info, penalised=self._penalties.penalised())
        return probe_from(rows, rows["step"], info, self._penalties.groups, strength)
