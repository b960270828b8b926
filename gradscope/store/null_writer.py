"""The writer of a rank that does not write."""

from __future__ import annotations

from typing import Any


class NullWriter:
    """Takes what a `gradscope.store.writer.Writer` takes, and keeps nothing."""

    problem: str | None = None

    def append(self, block: Any) -> None:
        """Rows."""

    def event(self, step: int, kind: str, text: str) -> None:
        """An event."""

    def epoch(self, epoch: int, metrics: Any) -> None:
        """Metrics of an epoch."""

    def set_attribute(self, name: str, value: Any) -> None:
        """A root attribute."""

    def set_static(self, name: str, values: Any) -> None:
        """A (parameter) variable."""

    def tick(self) -> None:
        """Time passes."""

    def close(self, status: str) -> None:
        """The end."""
