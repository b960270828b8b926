"""End a recording: hooks off, rows handed out, the last verdict told, the file finished."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack

from gradscope import checks
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.processes.termination import undisturbed
from gradscope.recorder.recorder import Recorder
from gradscope.recording.live_judge import LiveJudge
from gradscope.recording.notes import LearningFailureWarning, Notes
from gradscope.recording.record_options import OnFailure
from gradscope.store import remote
from gradscope.store.null_writer import NullWriter
from gradscope.types import InputError, Verdict


class Closing:
    """End of a recording, which finishes the record once, whoever asks for it.

    Attributes:
        undo: what has to be removed first.
        closed: it is over, or about to be.
        status: ``running``, then how it ended.
        told: the user was told of a failure, or it was acted upon.
    """

    def __init__(
        self, notes: Notes, live: LiveJudge, recorder: Recorder, on_failure: OnFailure, copy_to: str | None
    ) -> None:
        self._notes, self._live, self._recorder, self._on_failure = notes, live, recorder, on_failure
        self._copy_to = copy_to
        self._process = os.getpid()
        self.undo = ExitStack()
        self.closed = self.told = False
        self.status = "running"

    def close(self, status: str, together: bool = True) -> None:
        """Finish the file, with this status; ``together``: all ranks come to this place."""
        if self.closed:
            return
        self._recorder.buffer.together = together
        self.closed, self.status = True, status
        with undisturbed():
            self._finish(status)

    def at_exit(self) -> None:
        """Finish the file of a script that never called close, unless this is a fork of it."""
        if os.getpid() == self._process:
            self.close("failed" if getattr(sys, "last_value", None) is not None else "finished")

    def tell_failure(self, step: int, diagnosis: Diagnosis) -> None:
        """Tell the record and the user, as ``on_failure`` says."""
        self.told = True
        self._notes.writer.event(step, "verdict", diagnosis.sentence)
        if callable(self._on_failure):
            self._on_failure(diagnosis)
        elif self._on_failure == "warn":
            warnings.warn(LearningFailureWarning(diagnosis.explanation), stacklevel=checks.users_line())

    def _finish(self, status: str) -> None:
        notes, recorder = self._notes, self._recorder
        self.undo.close()
        missing = recorder.listeners.missed.missing
        if (missing or recorder.buffer.check() is not None) and status == "finished":
            status = self.status = "failed"  # the rows end before the training does
        try:
            self._live.finish()
            notes.add(**recorder.capture())
            if not self.told and len(self._live.judge.series.step):
                self._tell_last_verdict(status)
            if (error := recorder.buffer.check()) is not None:
                notes.ended_by(error)
        finally:
            notes.writer.close(status)
            self._copy()
            notes.give_problem()
            notes.give_warnings()

    def _copy(self) -> None:
        """Copy the record to where it is asked for; that it cannot be is a warning, and the record is here."""
        if self._copy_to is None or isinstance(self._notes.writer, NullWriter):
            return
        try:
            remote.put(self._notes.path, self._copy_to)
        except InputError as error:
            self._notes.warn(str(error))

    def _tell_last_verdict(self, status: str) -> None:
        """Tell the verdict on all rows, which may be known only now."""
        step = int(self._live.judge.series.step[-1])
        diagnosis = self._live.diagnosis(finished=status == "finished")
        if diagnosis.failed and (self._on_failure == "warn" or callable(self._on_failure)):
            self.tell_failure(step, diagnosis)
        elif diagnosis.verdict is not Verdict.UNDECIDED:
            self._notes.writer.event(step, "verdict", diagnosis.sentence)
