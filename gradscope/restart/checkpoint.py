"""Checkpoints: the complete state of a training, taken while the run is healthy.

A script gives `record` a `Checkpoint` (or any callback that writes a file); under ``gradscope run --restart-from
checkpoint`` the recording calls it where epochs begin, and a restarted script finds the last healthy file again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gradscope.processes.instructions import resume_from
from gradscope.restart.states import random_states, restore, restore_random, state_of
from gradscope.types import InputError


class Checkpoint:
    """State of a training: the given objects, the penalties on optimizers, and the global random generators.

    Restored in place, bit for bit. A checkpoint is a callable that takes a path and writes the state there.

    Args:
        parts: models, optimizers, schedulers, scalers and whatever else has ``state_dict`` and ``load_state_dict``;
            random generators of torch, numpy and python; lists and dicts.

    Attributes:
        epoch: the one that training is in, or goes on from.

    Raises:
        InputError: there is no object, or one whose state cannot be taken.

    Example:
        >>> checkpoint = Checkpoint(model, optimizer)
        >>> with record(model, optimizer, "run.h5", checkpoint=checkpoint) as run:
        ...     for epoch in checkpoint.epochs(50):
        ...         run.epoch(epoch)
    """

    def __init__(self, *parts: Any) -> None:
        if not parts:
            raise InputError("a checkpoint of nothing; expected Checkpoint(model, optimizer, …)")
        self._parts = parts
        self.epoch = 0
        self.state()

    def state(self) -> dict[str, Any]:
        """Return the whole state, copied to the CPU."""
        return {"epoch": self.epoch, "parts": [state_of(part) for part in self._parts], "random": random_states()}

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back, in place.

        Args:
            state: what `state` returned; it is not changed, and can be used again.

        Raises:
            InputError: it is of another number of objects.
        """
        if len(state["parts"]) != len(self._parts):
            raise InputError(f"the checkpoint holds {len(state['parts'])} objects; this one is of {len(self._parts)}")
        for part, own in zip(self._parts, state["parts"], strict=True):
            restore(part, own)
        self.epoch = state["epoch"]
        restore_random(state["random"])

    def __call__(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, whole or not at all; every rank writes its own.

        Args:
            path: of the file, as rank 0 names it.
        """
        final = _of_rank(Path(path))
        fresh = final.with_name(final.name + ".new")
        torch.save(self.state(), fresh)
        fresh.replace(final)

    def restore(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Load the state from a file.

        Args:
            path: of the file; without it, the one that ``gradscope run`` names.

        Returns:
            Whether there was one to go on from.

        Raises:
            InputError: the file is not there, cannot be read, or holds another number of objects.
        """
        path = path or resume_from()
        if path is None:
            return False
        file = _of_rank(Path(path))
        try:
            state = torch.load(file, map_location="cpu", weights_only=False)
        except FileNotFoundError:
            raise InputError(f"there is no checkpoint {file}") from None
        except Exception as error:
            raise InputError(f"{file} cannot be read as a checkpoint: {type(error).__name__}: {error}") from None
        self.load(state)
        return True

    def epochs(self, count: int) -> Iterator[int]:
        """Restore the checkpoint that ``gradscope run`` names, if any, and count the epochs from there.

        Args:
            count: epochs of the whole training.

        Yields:
            The number of each epoch, up to ``count - 1``.
        """
        self.restore()
        for epoch in range(self.epoch, count):
            self.epoch = epoch
            yield epoch


def _of_rank(path: Path) -> Path:
    rank = (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )
    return path if rank == 0 else path.with_suffix(f".{rank}{path.suffix}")
