"""Shared small types: the errors a caller can meet, and the words that several rooms use."""

from __future__ import annotations

from enum import StrEnum


class InputError(ValueError):
    """The caller's mistake: what was given, what was expected, what to do.

    The command line prints it as one line and exits with 2.
    """


class RecordExistsError(InputError, FileExistsError):
    """A record is already there, and nothing said that it may be replaced or continued."""


class RecordNotFoundError(InputError, FileNotFoundError):
    """There is no such record."""


class LearningFailure(RuntimeError):
    """Raised by a recording with ``on_failure="raise"``; ``diagnosis`` holds the verdict."""

    def __init__(self, message: str, diagnosis: object = None) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class Verdict(StrEnum):
    """What a judge can say about a run."""

    HEALTHY = "healthy"
    COLLAPSED = "collapsed"
    STALLED = "stalled"
    DIVERGED = "diverged"
    VANISHING = "vanishing"
    UNDECIDED = "undecided"

    @property
    def failed(self) -> bool:
        """True for every verdict that says the run does not learn."""
        return self not in (Verdict.HEALTHY, Verdict.UNDECIDED)
