"""Fill a training command with placeholders for one call, and compare what was asked for with what its record shows."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradscope import checks
from gradscope.processes.instructions import Instructions
from gradscope.quantities import Strength
from gradscope.types import InputError

PLACEHOLDERS = ("strength", "weight_decay", "seed", "out")


@dataclass(frozen=True)
class Command:
    """Training command with placeholders: ``{strength}``, ``{weight_decay}``, ``{seed}``, ``{out}``.

    Attributes:
        words: the command.
        penalty: the word of the penalty that its strength is of.
    """

    words: tuple[str, ...]
    penalty: str = "l2"

    @classmethod
    def parse(cls, words: Sequence[str], penalty: str = "l2") -> Command:
        """Make a command, and check everything that can be checked before a process is started.

        Args:
            words: the command.
            penalty: the word of its penalty.

        Returns:
            The command.

        Raises:
            InputError: it is empty, holds an unknown placeholder, or there is no such program.
        """
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
        """Names of the placeholders, in order."""
        return tuple(m[2] for word in self.words for m in _PLACEHOLDER.finditer(word) if m[2])

    @property
    def takes_strength(self) -> bool:
        """Whether the strength reaches the script by its own arguments."""
        return "strength" in self.placeholders or "weight_decay" in self.placeholders

    def filled(self, asked: Instructions) -> list[str]:
        """Return the words of one call.

        Args:
            asked: values of the placeholders.

        Returns:
            The words.

        Raises:
            InputError: a placeholder has no value.
        """
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
        """Return the child's environment: ours, without old instructions, with the new ones."""
        told = asked.environment()
        if self.takes_strength:
            told.pop("GRADSCOPE_STRENGTH", None)
            told.pop("GRADSCOPE_PENALTY", None)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADSCOPE_")}
        return {**kept, **told}


_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


def check_strength(path: Path, asked: Strength, read_back: Strength, schedule: str) -> None:
    """Compare the strength asked for with the one that the record shows.

    A delayed run that never learned never saw its strength: nothing to compare then. Nor is there where a schedule goes
    elsewhere than to λ itself (a ramp cut short, a taper, a controller).

    Args:
        path: of the record.
        asked: what was asked for.
        read_back: what the record shows.
        schedule: of the record.

    Raises:
        InputError: they differ.
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
