"""History of a run and its restarts: one folder with one ``run.json``, whole at any moment.

``run.json`` is replaced atomically before and after every attempt. The same call in the same folder goes on from what
it finds there: attempts that are over count, and one that was broken off is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.restart.attempt import Attempt
from gradscope.types import InputError

#: What ``status`` can say. Only the first four are final; the same call goes on from the others.
STATUS = ("learned", "failed", "undecided", "never penalised", "running", "crashed", "interrupted", "time limit")
FINAL = STATUS[:4]


@dataclass(frozen=True)
class RunResult:
    """Result of a run and its restarts.

    Attributes:
        learned: whether the last attempt learned.
        status: one of `STATUS`.
        reason: why no attempt follows.
        out: the folder of the records and ``run.json``.
        attempts: in order.
    """

    learned: bool
    status: str
    reason: str
    out: Path
    attempts: tuple[Attempt, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps of all attempts together."""
        return sum(attempt.steps - attempt.first_step for attempt in self.attempts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in ``run.json``."""
        return {
            "learned": self.learned,
            "status": self.status,
            "reason": self.reason,
            "out": str(self.out),
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


class History:
    """Attempts so far, and the one under way, as they stand in ``run.json`` of a folder.

    Args:
        folder: made where it is missing.
        settings: what has to be the same for another call to go on with this history; plain values.

    Raises:
        InputError: the folder holds a run that is over, one with other settings, or something else.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = checks.output_folder(folder, "out")
        self._identity = _identity(self.folder)
        self.path = self.folder / "run.json"
        self.settings = json.loads(json.dumps(settings))
        self.attempts: list[Attempt] = []
        self.under_way: dict[str, Any] | None = None
        self.status, self.reason = "running", "running"
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        try:
            found = json.loads(self.path.read_text())
            before, status, entries = found["settings"], found["status"], found["attempts"]
            self.attempts = [Attempt.from_dict(entry) for entry in entries if "verdict" in entry]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.folder} already holds a run.json that is not of this version; give another folder"
            ) from None
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise InputError(
                    f"{self.folder} already holds a run with {name} {_shown(before.get(name))}, and this one has "
                    f"{_shown(value)}; give another folder, or the same settings to go on with it"
                )
        if status in FINAL:
            raise InputError(
                f"{self.folder} already holds a run, which is over ({status}: {found['reason']}); give another folder"
            )
        self.under_way = next((entry for entry in entries if "verdict" not in entry), None)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder for this process.

        Yields:
            Nothing.

        Raises:
            InputError: another process holds it.
        """
        with (self.folder / "run.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another gradscope is at work in {self.folder}; wait for it, or give another folder"
                ) from None
            yield

    def lost(self) -> InputError | None:
        """Return the error for a folder that was removed or renamed meanwhile; None where it is in its place."""
        if _identity(self.folder) == self._identity:
            return None
        return InputError(
            f"the folder {self.folder} was removed or renamed while its training ran, which has been ended; put the "
            f"folder back, and the same command goes on"
        )

    def free_path(self) -> Path:
        """Return the path where the next attempt records; a record that was broken off before keeps its own name."""
        number = len(self.attempts) + 1
        path = self.folder / f"attempt-{number}.h5"
        again = 1
        while path.exists():
            again += 1
            path = self.folder / f"attempt-{number}-again-{again}.h5"
        return path.resolve()

    def begin(self, under_way: dict[str, Any]) -> None:
        """Write what a later call has to know of an attempt to find it again, before it begins."""
        self.under_way = under_way
        self.write()

    def end(self, attempt: Attempt) -> None:
        """Add an attempt that is over."""
        self.attempts.append(attempt)
        self.under_way = None
        self.write()

    def close(self, status: str, reason: str) -> RunResult:
        """Write the status and the reason why no attempt follows, at least in this call."""
        self.status, self.reason = status, reason
        self.write()
        return self.result

    @property
    def result(self) -> RunResult:
        """The result so far."""
        return RunResult(self.status == "learned", self.status, self.reason, self.folder, tuple(self.attempts))

    def as_dict(self) -> dict[str, Any]:
        """Return what ``run.json`` holds."""
        found = self.result.as_dict() | {"settings": self.settings}
        found["attempts"] += [self.under_way] if self.under_way else []
        return found

    def write(self) -> None:
        """Replace ``run.json`` atomically and durably."""
        fresh = self.path.with_name("run.json.new")
        with fresh.open("w") as file:
            json.dump(self.as_dict(), file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def status_of(attempt: Attempt) -> str:
    """Return the final status that the last attempt stands for."""
    if attempt.never_penalised:
        return "never penalised"
    return (
        "failed" if attempt.diagnosis.failed else "learned" if attempt.diagnosis.verdict == "healthy" else "undecided"
    )


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else repr(value)
