"""Note what is new with finished rows, in the flusher's thread, before the rows are judged and written."""

from __future__ import annotations

from gradscope.diagnosis.rules.finding import Finding
from gradscope.recorder.baseline.assumed import AssumedBaseline
from gradscope.recorder.distributed import Ranks
from gradscope.recorder.host_rows import Block
from gradscope.recorder.listeners.registry import Listeners
from gradscope.recording.live_judge import LiveJudge
from gradscope.recording.notes import FindingWarning, Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.recording.record_options import RecordOptions

#: Rows without a loss after which a delay that waits for it is warned about.
UNLOGGED = 64


class RowNotes:
    """Consumer of rows that notes what penalties, weights and logged numbers have begun to do."""

    def __init__(
        self,
        notes: Notes,
        penalties: PenaltyTracker,
        live: LiveJudge,
        listeners: Listeners,
        baseline: AssumedBaseline,
    ) -> None:
        self._notes, self._penalties, self._live = notes, penalties, live
        self._listeners, self._baseline = listeners, baseline
        self._blind = False  # said already
        self._inexact: set[str] = set()

    def append(self, block: Block) -> None:
        """Note what is new with these rows."""
        writer = self._notes.writer
        self._warn_of_a_blind_delay(block)
        if self._penalties.newly_acting():
            penalised = self._penalties.penalised()
            self._live.penalised(int(block["step"][0]), penalised)
            writer.set_static("penalised", penalised)
        if (noticed := self._penalties.scale_invariance.see(block)) is not None:
            self._notes.add(scale_invariant=noticed)
        for step, text in self._penalties.changes.take():
            writer.event(step, "strength", text)
        inexact = self._listeners.logged.inexact
        if new := inexact.keys() - self._inexact:
            self._inexact |= new
            text = "; ".join(f"log({name}=…): {inexact[name]}" for name in sorted(new))
            self._notes.warn(f"{text}: a record holds float32; log it in a larger unit")

    def tick(self) -> None:
        """Do nothing: nothing waits here."""

    def _warn_of_a_blind_delay(self, block: Block) -> None:
        """Warn of a delay that waits for the record to show learning, which is for ever if no loss is logged."""
        logged = self._baseline.loss_function != ""
        if self._penalties.waiting() and not logged and not self._blind and block["step"][-1] >= UNLOGGED:
            self._blind = True
            text = "delayed:auto waits for the loss to fall, and no loss is logged: call Recording.log(loss=…)"
            self._notes.writer.event(int(block["step"][-1]), "warning", text)
            self._notes.warn(text)


class FindingNotes:
    """Notes of what the rules find: each is an event in the file; the rank that writes warns of the first ones.

    Not where a failure is ignored, or only a supervisor reads of it.
    """

    def __init__(self, notes: Notes, ranks: Ranks, options: RecordOptions) -> None:
        self._notes = notes
        self._warns = ranks.writes and (options.on_failure in ("warn", "raise") or callable(options.on_failure))

    def add(self, new: list[Finding]) -> None:
        """Note findings that have not been told before."""
        for finding in new:
            self._notes.writer.event(finding.found_step, "finding", f"{finding.sentence}: {finding.suggestion}")
        if self._warns:
            self._warns = False
            text = "; ".join(f"{finding.sentence}: {finding.suggestion}" for finding in new)
            self._notes.warn(FindingWarning(f"{text}. Recording.findings and gradscope diagnose tell all"))
