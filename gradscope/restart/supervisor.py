"""Run a training command under a restart policy; the whole history is one folder with one ``run.json``.

The policy decides, the supervisor acts: it starts the command, follows it, reads its record, and tells the policy.
Killed at any moment, the same call goes on: attempts that are over count, and a training that is still running is
waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.processes.child import ExitStatus
from gradscope.processes.command import Command
from gradscope.processes.detached import DetachedChild, holds_a_training
from gradscope.processes.instructions import EXIT_STOPPED, Instructions
from gradscope.restart.attempt import Attempt, check_early, missing_record, read_attempt
from gradscope.restart.history import History, RunResult, status_of
from gradscope.restart.policy import Decision, Policy
from gradscope.restart.resumption import checkpoints_beside, resumption
from gradscope.store.record import Record
from gradscope.types import InputError


@dataclass
class Supervisor:
    """State of one call of `supervise`.

    Attributes:
        command: the training command.
        policy: decides on restarts.
        history: the folder and its ``run.json``.
        strength: λ of all attempts, None for the script's own.
        seed: of all attempts.
        show: pass the child's output on to standard error.
        say: told about each attempt.
        deadline: of `time.monotonic`, None for none.
    """

    command: Command
    policy: Policy
    history: History
    strength: float | None
    seed: int
    show: bool
    say: Callable[[str], None]
    deadline: float | None

    def run(self) -> RunResult:
        """Make attempt after attempt, until the policy ends it."""
        for earlier in self.history.attempts:
            self.policy.tell(earlier)
        self._left_behind()
        while (decision := self.policy.ask()).start:
            asked = self._asked(decision)
            self.say(f"starting attempt {len(self.history.attempts) + 1}: {decision.reason or 'from the start'}")
            training = DetachedChild(Path(asked.out or ""))
            self.history.begin(_entry(asked))  # before the child starts, so that a later call finds it
            training.start(self.command.filled(asked), self.command.environment(asked))
            self.history.begin({**_entry(asked), "pid": training.pid})
            if (attempt := self._followed(training, asked)) is None:
                return self.history.close("time limit", "the time limit ended it; the same call tries again")
            self._told(attempt)
        return self.history.close(status_of(self.history.attempts[-1]), decision.reason)

    def _asked(self, decision: Decision) -> Instructions:
        path = self.history.free_path()
        asked = Instructions(
            strength=self.strength,
            penalty=self.command.penalty if self.strength is not None else None,
            schedule=decision.schedule,
            seed=self.seed,
            out=str(path),
            on_failure="stop",
            checkpoints=str(checkpoints_beside(path)) if self.policy.from_checkpoints else None,
        )
        if decision.without_penalty:
            return replace(asked, strength=0.0, penalty=self.command.penalty, on_success="stop", checkpoints=None)
        if not decision.from_checkpoint:
            return asked
        if (found := resumption(self.history.attempts[-1], path)) is None:
            self.say("no checkpoint from before the failure, so from the start")
            return asked
        self.say(f"from the checkpoint of step {found.step}")
        return replace(asked, resume=str(found.checkpoint), resume_step=found.step)

    def _left_behind(self) -> None:
        """Take up an attempt that an earlier call has begun, and did not see end."""
        if (entry := self.history.under_way) is None:
            return
        asked = Instructions(**{name: entry.get(name) for name in _KEPT}, out=entry["path"])
        training = DetachedChild(Path(entry["path"]), entry.get("pid"))
        number = len(self.history.attempts) + 1
        if training.alive:
            self.say(f"attempt {number} of an earlier call is still running (process {training.pid}); waiting for it")
            attempt = self._followed(training, asked)
        else:
            attempt = self._read(asked, ExitStatus(0, ""), known=False)
        if attempt is None:
            self.say(f"attempt {number} of an earlier call was broken off; again")
        else:
            self._told(attempt)

    def _followed(self, training: DetachedChild, asked: Instructions) -> Attempt | None:
        """Wait for the training and read its attempt; None where it was ended before it came to a result."""
        assert asked.out is not None
        path, checked = Path(asked.out), False

        def look() -> None:
            nonlocal checked
            if (lost := self.history.lost()) is not None:
                raise lost
            checked = checked or check_early(path, asked, self.command)

        try:
            training.follow(self.show, self.deadline, look)
            if training.signals:
                raise KeyboardInterrupt
            in_time = self.deadline is None or time.monotonic() <= self.deadline
            attempt = self._read(asked, training.exit_status, known=training.ours and in_time)
        except KeyboardInterrupt:
            self.history.close("interrupted", "interrupted; the same call tries again")
            raise
        except InputError as error:
            if self.history.lost() is None:
                self.history.close("crashed", str(error))
            raise
        return attempt

    def _read(self, asked: Instructions, status: ExitStatus, known: bool) -> Attempt | None:
        """Read the attempt from the record and the exit code together.

        A launcher may hide the exit code with which a recording ends its process: the record says so as well.

        Args:
            asked: the instructions of the attempt.
            status: how the process ended.
            known: the exit code is that of a child that nobody has ended; otherwise the record alone tells whether it
                was over.

        Returns:
            The attempt; None where it was not over.

        Raises:
            InputError: the command failed.
            missing_record: it ended without a record.
        """
        path = Path(asked.out or "")
        words = self.command.filled(asked)
        copied = _stops(self.history.attempts[-1].path) if asked.resume_step is not None else 0
        stopped = status.code == EXIT_STOPPED or _stops(path) > copied
        if known and not stopped and not status.ended_itself:
            raise InputError(status.complaint(words))
        if not path.exists():
            if known:
                raise missing_record(f"the command {' '.join(words)!r}")
            return None
        if not known and not stopped and not _finished(path):
            return None
        return read_attempt(asked, "stopped" if stopped else "itself", self.command)

    def _told(self, attempt: Attempt) -> None:
        self.history.end(attempt)
        self.policy.tell(attempt)
        more = f"; {attempt.level}" if attempt.level else ""
        self.say(f"attempt {len(self.history.attempts)}: {attempt.diagnosis.sentence}{more}")


def supervise(
    command: Command,
    policy: Policy,
    out: Path,
    *,
    strength: float | None = None,
    seed: int = 0,
    show: bool = True,
    say: Callable[[str], None] = lambda line: None,
    time_limit: float | None = None,
) -> RunResult:
    """Run the command, judge it, and start it again as the policy says.

    Args:
        command: the training command.
        policy: decides on restarts.
        out: a folder for the records and ``run.json``; new, or that of the same call, which goes on then.
        strength: λ of all attempts; without it, the script's own.
        seed: of all attempts.
        show: pass the child's output on to standard error.
        say: told about each attempt.
        time_limit: seconds for this call.

    Returns:
        What came of it.

    Raises:
        InputError: the command cannot be used or crashes, or the folder cannot be used.
        KeyboardInterrupt: a signal ended it.
    """  # noqa: DOC501, DOC502 - raised by what it calls; the OSError that is raised again is an InputError, too
    if strength is not None:
        checks.strength(strength)
    if time_limit is not None and not checks.finite(time_limit, "the time limit") > 0:
        raise InputError(f"the time limit is {time_limit:g} s; expected more than 0")
    command.filled(Instructions(strength=strength, seed=seed, out="x"))
    history = History(out, _settings(command, policy, strength, seed))
    deadline = None if time_limit is None else time.monotonic() + time_limit
    try:
        with history.alone():
            if history.under_way is None and holds_a_training(history.folder):
                raise InputError(
                    f"a training is still running in {history.folder}, and run.json no longer says which; wait for it "
                    f"to end, end it, or give another folder"
                )
            return Supervisor(command, policy, history, strength, seed, show, say, deadline).run()
    except OSError as error:
        if (lost := history.lost()) is not None:
            raise lost from None
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot go on in {history.folder}: {error.strerror or error}") from None


def _settings(command: Command, policy: Policy, strength: float | None, seed: int) -> dict[str, Any]:
    return {
        "command": list(command.words),
        "penalty": command.penalty,
        "strength": strength,
        "seed": seed,
        "policy": policy.text,
    }


_KEPT = ("strength", "penalty", "schedule", "seed", "resume", "resume_step")


def _entry(asked: Instructions) -> dict[str, Any]:
    """Return the entry of ``run.json`` for an attempt that is under way."""
    return {"path": asked.out, "ended": "running", **{name: getattr(asked, name) for name in _KEPT}}


def _stops(path: Path) -> int:
    """Count how often the record says that its recording has ended the process; a copy brings those of the first."""
    if not path.exists():
        return 0
    with Record(path) as record:
        found = record.events
    return sum(event["kind"] == "stopped" and event["text"].startswith("stopped by gradscope") for event in found)


def _finished(path: Path) -> bool:
    with Record(path) as record:
        return record.finished
