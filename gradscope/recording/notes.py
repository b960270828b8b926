"""Tell what a recording has to say beside its rows: in the record (config, capture, events), and by warnings."""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.recording.sink_thread import MultiWriter
from gradscope.store.null_writer import NullWriter
from gradscope.store.writer import Writer


class LearningFailureWarning(UserWarning):
    """Warning that the run being recorded does not learn."""


class FindingWarning(UserWarning):
    """Warning that a rule beside the verdict has found something; given once a recording."""


class Notes:
    """Config and capture of one record, its events, and warnings that wait for the training thread to give them.

    Attributes:
        path: of the record.
        config: how the run was set up, as JSON holds it.
        capture: what each number means, what was not seen and why, as JSON holds it.
        writer: of the file, and the sinks; one that keeps nothing before there is one, and on ranks that do not write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = {}
        self.capture: dict[str, Any] = {}
        self.writer: Writer | NullWriter | MultiWriter = NullWriter()
        self._waiting: deque[str | Warning] = deque()
        self._problem: str | None = None  # of the file, told already

    def add(self, **said: Any) -> None:
        """Put something into the capture, here and in the file."""
        self.capture |= said
        self.writer.set_attribute("capture", self.capture)

    def warn(self, warning: str | Warning) -> None:
        """Keep a warning for the training thread to give, as it stands."""
        self._waiting.append(warning)

    def warn_here(self, text: str) -> None:
        """Keep a warning of this record: its path stands before it."""
        self.warn(f"{self.path}: {text}")

    def give_warnings(self) -> None:
        """Give the warnings that wait; called in the training thread."""
        while self._waiting:
            warnings.warn(self._waiting.popleft(), stacklevel=checks.users_line())

    def give_problem(self) -> None:
        """Warn once of trouble with the file, met by whichever thread writes; the training goes on."""
        if self.writer.problem != self._problem:
            self._problem = self.writer.problem
            warnings.warn(RuntimeWarning(self._problem), stacklevel=checks.users_line())

    def ended_by(self, error: BaseException) -> None:
        """Note an error of our own behind the training: one warning, no more rows, and the training goes on."""
        if "ended_by" in self.capture:
            return
        self.add(ended_by=f"{type(error).__name__}: {error}".splitlines()[0][:200])
        text = f"the recording ended, by an error that is not the training's ({self.capture['ended_by']})"
        self.warn_here(f"{text}; the rows so far are kept, and the training goes on. Please report it")
        self.give_warnings()
