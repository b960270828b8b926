"""The search folder's memory: one line a finished trial, appended and synced, never rewritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gradscope.search.trials import TrialResult
from gradscope.types import InputError


class Ledger:
    """``search.jsonl``: the settings of the search, then its trials. A torn last line does not count."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / "search.jsonl"
        self.trials: dict[str, list[TrialResult]] = {}
        if self.path.exists():
            self._load(settings)
        else:
            self._write({"settings": settings})

    def _load(self, settings: dict[str, Any]) -> None:
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # killed while appending
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            before = lines[0]["settings"] if lines else settings
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.path} is not the ledger of a search; give another folder with --out") from None
        if not lines:
            self._write({"settings": settings})
        for name in settings:
            if before.get(name) != settings[name]:
                raise InputError(
                    f"{self.path.parent} holds a search with {name} {before.get(name)!r}, and this one has "
                    f"{settings[name]!r}; give another folder with --out, or the same settings"
                )
        for line in lines[1:]:
            self.trials.setdefault(line["level"], []).append(TrialResult.from_dict(line["trial"]))

    def add(self, level: str, trial: TrialResult) -> None:
        self.trials.setdefault(level, []).append(trial)
        self._write({"level": level, "trial": trial.as_dict()})

    def _write(self, entry: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
