"""Characters of the sources of Python's standard library: text that every machine has."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

#: Printable ASCII and the end of a line; whatever else there is becomes a question mark.
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
LENGTH = 2_000_000


@dataclass(frozen=True)
class Text:
    """Numbers of characters, [N] for training and for validation: of other files."""

    train: Tensor
    validation: Tensor

    @property
    def entropy(self) -> float:
        """Of single characters in nats: the loss of the best constant predictor on the training text."""
        share = torch.bincount(self.train, minlength=len(CHARACTERS)) / len(self.train)
        return float(-(share * share.clamp_min(1e-12).log()).sum())


def numbers(text: str) -> Tensor:
    """A character's place in `CHARACTERS`, tabs as a blank."""
    places = {character: k for k, character in enumerate(CHARACTERS)} | {"\t": 1}
    return torch.tensor([places.get(character, places["?"]) for character in text])


@cache
def sources() -> Text:
    """The modules in the order of their names, the first 2 million characters; every tenth is for validation."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[str], list[str]] = ([], [])
    length = 0
    for k, path in enumerate(sorted(folder.glob("*.py"))):
        if length >= LENGTH:
            break
        text = path.read_text(encoding="utf-8", errors="replace")
        parts[k % 10 == 9].append(text)
        length += len(text)
    return Text(*(numbers("".join(part)) for part in parts))
