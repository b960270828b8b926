"""Choose where a recording writes, and which of a supervisor's instructions are for it, if a process makes several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradscope import checks
from gradscope.processes import instructions
from gradscope.processes.instructions import Instructions

_RECORDED: dict[str, int] = {}  # recordings that this process has begun, by the path it was asked for


def destination(path: Path, asked: Instructions) -> Path:
    """Return where to write: the environment beats the argument; a second recording writes beside the first."""
    if asked.out is None:
        return path
    first = checks.absolute_path(asked.out, "GRADSCOPE_OUT")
    number = _RECORDED.get(asked.out, 0) + 1
    return first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


def own_instructions(asked: Instructions) -> Instructions:
    """Return the instructions for the recording that begins.

    Only the first one of a process, or of a training function, goes on from a checkpoint, is a probe, has siblings.

    Returns:
        The instructions.
    """
    if asked.out is not None and asked.out not in _RECORDED:
        return asked
    own = replace(asked, checkpoints=None, resume=None, resume_step=None)
    if asked.out is None:
        return replace(own, siblings=None) if instructions.has_opened() else own
    return replace(own, probe_steps=None, probe_until=None, siblings=None)


def has_begun(asked: Instructions) -> None:
    """Count a recording of this process that has begun."""
    if asked.out is not None:
        _RECORDED[asked.out] = _RECORDED.get(asked.out, 0) + 1
