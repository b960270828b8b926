"""Journal of a search folder: a line for each event, appended and synced, never rewritten."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from gradscope.trials.trial import Trial
from gradscope.types import InputError


class Journal:
    """``search.jsonl``: the settings of the search, then what was asked for, finished and lost, by level.

    A torn last line does not count. One search at a time holds a folder.

    Args:
        folder: where it stands.
        settings: what has to be the same for another search to go on with it.

    Attributes:
        path: of the file.
        trials: finished ones, by level.
        asked: numbers of the trials that were begun, by level.
        lost: numbers of the trials without an outcome, by level.
        predicted: what probes predicted of the level, None before they did.

    Raises:
        InputError: another search holds the folder, or it holds one with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / "search.jsonl"
        self.trials: dict[str, list[Trial]] = {}
        self.asked: dict[str, list[int]] = {}
        self.lost: dict[str, list[int]] = {}
        self.predicted: dict[str, Any] | None = None
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self._load(settings)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder."""
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another search is under way in {self.path.parent}; wait for it, or give another folder with --out"
            ) from None

    def _load(self, settings: dict[str, Any]) -> None:
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # killed while appending
            os.ftruncate(self._file, len(whole))
        if not whole:
            self._write({"settings": settings})
            return
        try:
            first, *entries = [json.loads(line) for line in whole.splitlines()]
            before = first["settings"]
            for entry in entries:
                self._take(entry)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.path} is not the journal of a search; give another folder with --out") from None
        for name in {**settings, **before}:
            if before.get(name) != settings.get(name):
                raise InputError(
                    f"{self.path.parent} holds a search with {name} {before.get(name)!r}, and this one has "
                    f"{settings.get(name)!r}; give another folder with --out, or the same settings"
                )

    def _take(self, entry: dict[str, Any]) -> None:
        if "predicted" in entry:
            self.predicted = dict(entry["predicted"])
            return
        level = entry["level"]
        if "trial" in entry:
            self.trials.setdefault(level, []).append(Trial.from_dict(entry["trial"]))
        elif "lost" in entry:
            self.lost.setdefault(level, []).append(int(entry["lost"]["number"]))
        else:
            self.asked.setdefault(level, []).append(int(entry["asked"]["number"]))

    def predict(self, predicted: dict[str, Any]) -> None:
        """Note what probes predicted of the level, or why nothing."""
        self.predicted = predicted
        self._write({"predicted": predicted})

    def ask(self, level: str, plan: Trial) -> None:
        """Note that a trial is about to start: its number and its seed are used up, whatever becomes of it."""
        self.asked.setdefault(level, []).append(plan.number)
        self._write({"level": level, "asked": plan.asked()})

    def add(self, level: str, trial: Trial) -> None:
        """Note a trial that has finished."""
        self.trials.setdefault(level, []).append(trial)
        self._write({"level": level, "trial": trial.as_dict()})

    def lose(self, level: str, trial: Trial) -> None:
        """Note a trial that came to no outcome; its note says why."""
        self.lost.setdefault(level, []).append(trial.number)
        self._write({"level": level, "lost": trial.asked() | {"reason": trial.note}})

    def unfinished(self, level: str) -> list[int]:
        """Return the numbers of trials that were under way when an earlier search ended."""
        over = {t.number for t in self.trials.get(level, ())} | set(self.lost.get(level, ()))
        return [number for number in self.asked.get(level, ()) if number not in over]

    def _write(self, entry: dict[str, Any]) -> None:
        # One write to a file opened for appending: a line is there, or torn, and never mixed with another.
        os.write(self._file, (json.dumps(entry, ensure_ascii=False) + "\n").encode())
        os.fsync(self._file)
