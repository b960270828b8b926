"""Writer of a rank that does not write."""

from __future__ import annotations

from typing import Any


class NullWriter:
    """Writer that takes what a `gradscope.store.writer.Writer` takes, and keeps nothing.

    Attributes:
        problem: None.
    """

    problem: str | None = None

    def append(self, block: Any) -> None:
        """Ignore rows."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Ignore an event."""

    def epoch(self, epoch: int, metrics: Any) -> None:
        """Ignore metrics of an epoch."""

    def set_attribute(self, name: str, value: Any) -> None:
        """Ignore a root attribute."""

    def set_static(self, name: str, values: Any) -> None:
        """Ignore a (parameter) variable."""

    def tick(self) -> None:
        """Do nothing."""

    def close(self, status: str) -> None:
        """Do nothing."""
