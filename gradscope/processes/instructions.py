"""Instructions to a recording from whoever started its process: environment variables, and the exit code back.

The supervisor (`gradscope run`, `gradscope search`) says what it wants through the command line of the child
(`command.py`) or its environment; `gradscope.record` inside the child obeys the environment; the record and the exit
code say what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn, Protocol

from gradscope import checks
from gradscope.run_info import Sibling
from gradscope.types import InputError

#: The exit code of a child that gradscope ended: its record says why.
EXIT_STOPPED = 76

ON_FAILURE = ("ignore", "warn", "raise", "stop")
ON_SUCCESS = ("ignore", "stop")
#: What may end a probe before its steps: its loss has clearly fallen, or it is in its active phase.
UNTIL = ("escape", "active")


@dataclass(frozen=True)
class Instructions:
    """Instructions of a supervisor to the recording in a child. None: the script's own choice stands.

    Attributes:
        strength: λ.
        penalty: its word.
        schedule: its text.
        seed: of the random generators.
        out: path of the record; with ``resume_step``, it holds the rows before that step.
        on_failure: one of `ON_FAILURE`.
        on_success: one of `ON_SUCCESS`.
        probe_steps: end the training after so many steps, recorded one by one.
        probe_until: or as soon as it has come to one of `UNTIL`.
        checkpoints: the folder for checkpoints.
        resume: the checkpoint to go on from.
        resume_step: its step.
        siblings: finished trials of a search that the judge looks at, too. Those that cannot be read are none.
    """

    strength: float | None = None
    penalty: str | None = None
    schedule: str | None = None
    seed: int | None = None
    out: str | None = None
    on_failure: str | None = None
    on_success: str | None = None
    probe_steps: int | None = None
    probe_until: str | None = None
    checkpoints: str | None = None
    resume: str | None = None
    resume_step: int | None = None
    siblings: tuple[Sibling, ...] | None = None

    def environment(self) -> dict[str, str]:
        """Return them as ``GRADSCOPE_…`` variables."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if self.siblings is not None:
            told["siblings"] = json.dumps([sibling.as_dict() for sibling in self.siblings])
        return {_variable(name): str(value) for name, value in told.items()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Instructions:
        """Read them back.

        Args:
            environment: the variables.

        Returns:
            The instructions.

        Raises:
            InputError: a variable is wrong; it is named.
        """
        given = {f.name: environment.get(_variable(f.name)) or None for f in fields(cls)}
        strength = given["strength"]
        for name in ("seed", "resume_step", "probe_steps"):
            if (number := given[name]) is not None and not re.fullmatch(r"-?\d+", number):
                raise InputError(f"{_variable(name)} is {number!r}; expected a whole number")
        if given["on_failure"] is not None:
            checks.one_of(given["on_failure"], ON_FAILURE, "GRADSCOPE_ON_FAILURE")
        if given["on_success"] is not None:
            checks.one_of(given["on_success"], ON_SUCCESS, "GRADSCOPE_ON_SUCCESS")
        if given["probe_until"] is not None:
            checks.one_of(given["probe_until"], UNTIL, "GRADSCOPE_PROBE_UNTIL")
        return cls(
            strength=None if strength is None else checks.strength(strength, "GRADSCOPE_STRENGTH"),  # type: ignore[arg-type]
            penalty=None if given["penalty"] is None else checks.penalty_word(given["penalty"]),
            schedule=given["schedule"],
            seed=None if given["seed"] is None else int(given["seed"]),
            out=given["out"],
            on_failure=given["on_failure"],
            on_success=given["on_success"],
            probe_steps=None if given["probe_steps"] is None else int(given["probe_steps"]),
            probe_until=given["probe_until"],
            checkpoints=given["checkpoints"],
            resume=given["resume"],
            resume_step=None if given["resume_step"] is None else int(given["resume_step"]),
            siblings=None if given["siblings"] is None else _siblings(given["siblings"]),
        )


def _siblings(text: str) -> tuple[Sibling, ...] | None:
    """Read the siblings; a trial is judged without those that cannot be read, and says so."""
    try:
        return tuple(Sibling.from_dict(entry) for entry in json.loads(text))
    except (ValueError, TypeError) as error:
        text = f"{_variable('siblings')} cannot be read ({error}): this run is judged by itself"
        warnings.warn(RuntimeWarning(text), stacklevel=2)
        return None


def _variable(name: str) -> str:
    return "GRADSCOPE_" + name.upper()


_INSIDE: ContextVar[Instructions | None] = ContextVar("gradscope_instructions", default=None)


def current() -> Instructions:
    """Return the instructions that apply here: those of a search in this process, else those of the environment."""
    return _INSIDE.get() or Instructions.from_environment(os.environ)


class Closes(Protocol):
    """Recording, as far as this file is concerned."""

    def close(self) -> None:
        """Close it."""
        ...


_OPENED: ContextVar[list[Closes] | None] = ContextVar("gradscope_opened", default=None)


@contextlib.contextmanager
def instructed(asked: Instructions) -> Iterator[None]:
    """Give instructions to a plain function that runs in this process, and close the recordings that it left open."""
    recordings: list[Closes] = []
    tokens = _INSIDE.set(asked), _OPENED.set(recordings)
    try:
        yield
    finally:
        for recording in recordings:
            recording.close()
        _INSIDE.reset(tokens[0])
        _OPENED.reset(tokens[1])


_RESUMED = False


def resume_from() -> Path | None:
    """Return the checkpoint that ``gradscope run`` wants the script to go on from.

    For scripts with checkpoints of their own, which load it before the first step; `gradscope.Checkpoint` asks by
    itself.

    Returns:
        Its path; None: begin at the start.

    Raises:
        InputError: an instruction in the environment is wrong.
    """  # noqa: DOC502 - raised by what it calls
    global _RESUMED
    if (asked := current().resume) is None:
        return None
    _RESUMED = True
    return Path(asked)


def ignores_its_checkpoint(asked: Instructions) -> bool:
    """Return whether a script that should go on from a checkpoint has never asked for it."""
    return asked.resume is not None and not _RESUMED


def supervised() -> bool:
    """Return whether ``gradscope run``, ``search`` or ``suggest`` has started this process."""
    ends = os.environ.get("GRADSCOPE_ON_FAILURE") == "stop" or "GRADSCOPE_PROBE_STEPS" in os.environ
    return ends and not inside_search()


def opened(recording: Closes) -> None:
    """Note that a recording has begun; each recording calls it."""
    if (recordings := _OPENED.get()) is not None:
        recordings.append(recording)


def has_opened() -> bool:
    """Return whether a plain training function that runs under a search has begun a recording before."""
    return bool(_OPENED.get())


def inside_search() -> bool:
    """Return whether a plain training function runs under a search in this very process."""
    return _INSIDE.get() is not None


class Stopped(SystemExit):
    """Exit of a training that gradscope has decided about. A child exits with `EXIT_STOPPED`.

    Args:
        reason: why it is ended.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_STOPPED)
        self.reason = reason


def refuse(error: InputError) -> NoReturn:
    """Raise a mistake that was found inside a child of a supervisor as one line without a traceback, else as it is.

    Args:
        error: the mistake.

    Raises:
        InputError: the mistake, in a process that no supervisor has started.
        SystemExit: with the line, for the supervisor to pass on.
    """  # noqa: DOC502 - the error that is given
    if not supervised():
        raise error
    raise SystemExit(str(error)) from None
