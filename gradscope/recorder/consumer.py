"""Consumers of finished rows."""

from __future__ import annotations

from typing import Protocol

from gradscope.recorder.host_rows import Block


class RowConsumer(Protocol):
    """Consumer of finished rows: the judge, the writer of the file, sinks.

    Called in the flusher's thread, consumer after consumer. What one raises ends the recording, and not the training.
    """

    def append(self, block: Block) -> None:
        """Take rows in their order, [n, …] a variable. All consumers get the same arrays, and change none."""

    def tick(self) -> None:
        """React to time that has passed: called several times a second, after the rows."""
