"""What a recovery saved of a record, and what it did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Recovery:
    """Report on a record that was recovered.

    Attributes:
        path: of the record.
        output: of the new file.
        log: what became of the redo log.
        rows: that were saved.
        variables: that were saved.
        events: that were saved.
        epochs: that were saved.
        missing: rows [first, last] by variable.
        lost: what is gone as a whole, and why.
        why: by variable, whether rows are rotten or cut off.
    """

    path: Path
    output: Path
    log: str
    rows: int = 0
    variables: list[str] = field(default_factory=list)
    events: int = 0
    epochs: int = 0
    missing: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing that was published is missing."""
        return not self.missing and not self.lost

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "path": str(self.path), "output": str(self.output), "complete": self.complete, "log": self.log,
            "rows": self.rows, "variables": self.variables, "events": self.events, "epochs": self.epochs,
            "missing": {name: [list(span) for span in spans] for name, spans in self.missing.items()},
            "lost": self.lost, "why": self.why,
        }  # fmt: skip
