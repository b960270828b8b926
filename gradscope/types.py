"""Errors that a caller can meet, and words that several rooms use."""

from __future__ import annotations

from enum import StrEnum


class InputError(ValueError):
    """Mistake of the caller: what was given, what was expected, what to do.

    The command line prints it as one line and exits with 2.
    """


class RecordExistsError(InputError, FileExistsError):
    """Record that is already there, where nothing said that it may be replaced or continued."""


class RecordNotFoundError(InputError, FileNotFoundError):
    """Record that is not there."""


class LearningFailure(RuntimeError):
    """Failure to learn, raised by a recording with ``on_failure="raise"``.

    Attributes:
        diagnosis: the verdict.
    """

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
        """Whether the verdict says that the run does not learn."""
        return self not in (Verdict.HEALTHY, Verdict.UNDECIDED)
