"""How gradscope and a training command talk: placeholders, environment variables, exit code.

The supervisor (`gradscope run`, `gradscope search`) says what it wants through the command line of
the child or its environment; `gradscope.record` inside the child obeys the environment; the record
and the exit code say what came of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, NoReturn, Protocol

from gradscope import checks
from gradscope.quantities import Strength
from gradscope.types import InputError

#: The exit code of a child that gradscope ended: its record says why.
EXIT_STOPPED = 76

PLACEHOLDERS = ("strength", "weight_decay", "seed", "out")
ON_FAILURE = ("ignore", "warn", "raise", "stop")
ON_SUCCESS = ("ignore", "stop")


@dataclass(frozen=True)
class Instructions:
    """What a supervisor asks of the recording in a child. None: the script's own choice stands.

    ``probe_steps``: end the training after so many steps, recorded one by one; ``probe_escape``: or as soon as its loss
    has clearly fallen. ``checkpoints``: the folder for checkpoints. ``resume``, ``resume_step``: the checkpoint to go
    on from, and its step; ``out`` holds the rows before it then.
    """

    strength: float | None = None
    penalty: str | None = None
    schedule: str | None = None
    seed: int | None = None
    out: str | None = None
    on_failure: str | None = None
    on_success: str | None = None
    probe_steps: int | None = None
    probe_escape: bool | None = None
    checkpoints: str | None = None
    resume: str | None = None
    resume_step: int | None = None

    def environment(self) -> dict[str, str]:
        """As ``GRADSCOPE_…`` variables."""
        return {
            _variable(f.name): str(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Instructions:
        """Read back; raises `InputError` naming the variable that is wrong."""
        given = {f.name: environment.get(_variable(f.name)) or None for f in fields(cls)}
        strength = given["strength"]
        for name in ("seed", "resume_step", "probe_steps"):
            if (number := given[name]) is not None and not re.fullmatch(r"-?\d+", number):
                raise InputError(f"{_variable(name)} is {number!r}; expected a whole number")
        if given["on_failure"] is not None:
            checks.one_of(given["on_failure"], ON_FAILURE, "GRADSCOPE_ON_FAILURE")
        if given["on_success"] is not None:
            checks.one_of(given["on_success"], ON_SUCCESS, "GRADSCOPE_ON_SUCCESS")
        return cls(
            strength=None if strength is None else checks.strength(strength, "GRADSCOPE_STRENGTH"),  # type: ignore[arg-type]
            penalty=None if given["penalty"] is None else checks.penalty_word(given["penalty"]),
            schedule=given["schedule"],
            seed=None if given["seed"] is None else int(given["seed"]),
            out=given["out"],
            on_failure=given["on_failure"],
            on_success=given["on_success"],
            probe_steps=None if given["probe_steps"] is None else int(given["probe_steps"]),
            probe_escape=None if given["probe_escape"] is None else given["probe_escape"] == "True",
            checkpoints=given["checkpoints"],
            resume=given["resume"],
            resume_step=None if given["resume_step"] is None else int(given["resume_step"]),
        )


def _variable(name: str) -> str:
    return "GRADSCOPE_" + name.upper()


_INSIDE: ContextVar[Instructions | None] = ContextVar("gradscope_instructions", default=None)


def instructions() -> Instructions:
    """What applies here: what a search in this process asked for, else the environment."""
    return _INSIDE.get() or Instructions.from_environment(os.environ)


class Closes(Protocol):
    """A recording, as far as this file is concerned."""

    def close(self) -> None: ...


_OPENED: ContextVar[list[Closes] | None] = ContextVar("gradscope_opened", default=None)


@contextlib.contextmanager
def instructed(asked: Instructions) -> Iterator[None]:
    """Instructions for a plain function that runs in this process; recordings it left open are closed."""
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
    """The checkpoint that ``gradscope run`` wants the script to go on from; None: begin at the start.

    For scripts with checkpoints of their own: load it before the first step. `gradscope.Checkpoint` asks by itself.
    """
    global _RESUMED
    if (asked := instructions().resume) is None:
        return None
    _RESUMED = True
    return Path(asked)


def ignores_its_checkpoint(asked: Instructions) -> bool:
    """Whether a script that should go on from a checkpoint has never asked for it."""
    return asked.resume is not None and not _RESUMED


def supervised() -> bool:
    """True in a process that ``gradscope run``, ``search`` or ``suggest`` has started."""
    ends = os.environ.get("GRADSCOPE_ON_FAILURE") == "stop" or "GRADSCOPE_PROBE_STEPS" in os.environ
    return ends and not inside_search()


def opened(recording: Closes) -> None:
    """Told by each recording that it has begun."""
    if (recordings := _OPENED.get()) is not None:
        recordings.append(recording)


def inside_search() -> bool:
    """True while a plain training function runs under a search in this very process."""
    return _INSIDE.get() is not None


class Stopped(SystemExit):
    """Ends a training run that gradscope has decided about. A child exits with `EXIT_STOPPED`."""

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_STOPPED)
        self.reason = reason


def refuse(error: InputError) -> NoReturn:
    """A mistake found inside a child that a supervisor has started: one line for it to pass on, no traceback."""
    if not supervised():
        raise error
    raise SystemExit(str(error)) from None


# -- the supervisor's side ------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A training command with placeholders: ``{strength}``, ``{weight_decay}``, ``{seed}``, ``{out}``."""

    words: tuple[str, ...]
    penalty: str = "l2"

    @classmethod
    def parse(cls, words: Sequence[str], penalty: str = "l2") -> Command:
        """Checks everything that can be checked before a process is started."""
        if not words:
            raise InputError("there is no command; write it after --, such as: -- python train.py")
        command = cls(tuple(words), penalty := checks.penalty_word(penalty))
        known = ", ".join("{" + name + "}" for name in PLACEHOLDERS)
        for name in command.placeholders:
            if name not in PLACEHOLDERS:
                raise InputError(
                    f"the command holds {{{name}}}; expected {known} (write {{{{{name}}}}} for the plain text)"
                )
        if "weight_decay" in command.placeholders and penalty != "l2":
            raise InputError(
                f"the command holds {{weight_decay}}, which is L2; with --penalty {penalty} write {{strength}}"
            )
        if shutil.which(words[0]) is None:
            raise InputError(f"there is no command {words[0]!r}; expected a program on the PATH, such as python")
        return command

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(m[2] for word in self.words for m in _PLACEHOLDER.finditer(word) if m[2])

    @property
    def takes_strength(self) -> bool:
        """True where the strength reaches the script by its own arguments."""
        return "strength" in self.placeholders or "weight_decay" in self.placeholders

    def filled(self, asked: Instructions) -> list[str]:
        """The words of one call."""
        strength = asked.strength
        values = {
            "strength": "" if strength is None else repr(strength),
            "weight_decay": "" if strength is None else repr(2 * strength),
            "seed": "" if asked.seed is None else str(asked.seed),
            "out": asked.out or "",
        }

        def fill(match: re.Match[str]) -> str:
            return values[match[2]] if match[2] else "{" + match[1] + "}"

        for name, value in values.items():
            if name in self.placeholders and not value:
                option = "--strength" if name in ("strength", "weight_decay") else "--" + name
                raise InputError(f"the command holds {{{name}}}, and there is no value for it; give {option}")
        return [_PLACEHOLDER.sub(fill, word) for word in self.words]

    def environment(self, asked: Instructions) -> dict[str, str]:
        """The child's environment: ours, without old instructions, with the new ones."""
        told = asked.environment()
        if self.takes_strength:
            told.pop("GRADSCOPE_STRENGTH", None)
            told.pop("GRADSCOPE_PENALTY", None)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADSCOPE_")}
        return {**kept, **told}


_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class Outcome:
    """How a child ended. ``tail``: the last lines it wrote to standard error."""

    code: int
    tail: str

    @property
    def ended_itself(self) -> bool:
        return self.code in (0, EXIT_STOPPED)

    def complaint(self, words: Sequence[str]) -> str:
        """One line on a child that failed."""
        how = f"was killed by signal {-self.code}" if self.code < 0 else f"exited with code {self.code}"
        last = self.tail.strip().splitlines()[-1] if self.tail.strip() else "nothing on standard error"
        return f"the command {' '.join(words)!r} {how}: {last}"


class Child(Protocol):
    """A process that was started: as much of `subprocess.Popen` as is needed here."""

    returncode: int | None

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


#: Starts a command in an environment, with its output in a file.
Start = Callable[[Sequence[str], Mapping[str, str], IO[bytes]], Child]


def started(words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> Child:
    """Start a command. Raises `InputError` where there is no such program."""
    try:
        return subprocess.Popen(
            words, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise InputError(f"cannot start {words[0]!r}: {error.strerror}") from None


_START: ContextVar[Start] = ContextVar("gradscope_start", default=started)


@contextlib.contextmanager
def starting(start: Start) -> Iterator[None]:
    """Children are started in this way meanwhile."""
    token = _START.set(start)
    try:
        yield
    finally:
        _START.reset(token)


def run_child(words: Sequence[str], environment: Mapping[str, str]) -> Outcome:
    """Run a child to its end; an exception meanwhile (a signal's) ends it."""
    with tempfile.TemporaryFile() as log:
        child = _START.get()(words, environment, log)
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            child.kill()
            child.wait()
            raise
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
        return Outcome(code, log.read().decode(errors="replace"))


def check_strength(path: Path, asked: Strength, read_back: Strength, schedule: str) -> None:
    """The strength asked for against the one that the record shows.

    A delayed run that never learned never saw its strength: nothing to compare then. Nor is there where a schedule
    goes elsewhere than to λ itself (a ramp cut short, a taper, a controller). Raises `InputError` where they differ.
    """
    wanted, found = asked.value, read_back.value
    if found == 0 and (wanted == 0 or schedule != "constant"):
        return
    if wanted == 0:
        raise InputError(
            f"{path}: no penalty was asked for (strength 0), and the record shows {read_back.penalty} of strength "
            f"{found:g}; the script does not use what it is given, or has a penalty of its own beside it"
        )
    if read_back.penalty != asked.penalty:
        raise InputError(
            f"{path}: the search is about {asked.penalty}, and the record shows the penalty {read_back.penalty}"
        )
    if any(part != "constant" and not part.startswith("delayed:") for part in re.split(r"[+*]", schedule)):
        return
    if abs(found - wanted) <= 1e-5 * max(abs(wanted), abs(found)):
        return
    if read_back.weight_decay is not None and abs(read_back.weight_decay - wanted) <= 1e-5 * wanted:
        hint = "half of it: the script takes it for a weight_decay; write {weight_decay} instead of {strength}"
    elif asked.weight_decay is not None and abs(found - asked.weight_decay) <= 2e-5 * wanted:
        hint = "twice of it: write {strength} instead of {weight_decay}"
    else:
        hint = "the script does not use what it is given; write {strength} where it takes its strength"
    raise InputError(f"strength {wanted:g} was asked for, and the record shows {found:g}, {hint} ({path})")
