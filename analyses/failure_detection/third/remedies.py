"""What a remedy's sentence says, carried out on the case that it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyses.failure_detection.third.cases import Case
from analyses.failure_detection.third.nets import drawn_anew, leaky, normalised, without_biases
from gradscope.diagnosis.cause import EXPERIMENT
from gradscope.store.record import Record

#: Where a sentence gives no number: factors of ten, so often.
TRIES = 3
#: Times as long, where it says to train longer.
LONGER = 3
#: A number in a sentence.
NUMBER = r"([0-9][0-9.e+-]*[0-9]|[0-9])"


@dataclass(frozen=True)
class Attempt:
    """What is tried. ``tells``: it is no remedy, but an experiment that tells whether the penalty is the cause."""

    words: str
    case: Case
    tells: bool = False


def attempts(case: Case, remedy: str, record: Path) -> list[Attempt]:
    """Turn a sentence into trainings, in the order in which it names what to do.

    Args:
        case: that failed.
        remedy: what the tool proposes.
        record: of the failed run, where the sentence points to it.

    Returns:
        At most `TRIES` for a number that the sentence leaves open; nothing where a person has to look.
    """
    told = re.search(rf"to about {NUMBER}", remedy)
    number = float(told[1]) if told else None
    named = re.search(rf"begin with is about weight_decay {NUMBER}", remedy)
    begins = float(named[1]) if named else None
    if remedy == EXPERIMENT:
        return [Attempt("without the penalty", replace(case, decay=0.0), tells=True)]
    if "use a lower strength" in remedy:
        late = Attempt("delayed:auto", replace(case, delay="delayed:auto"))
        return [*_fields(case, "decay", begins, 0.1), *([late] if late.words in remedy else [])]
    if "clip at a larger norm" in remedy:
        usual = usual_norm(record)
        return [Attempt(f"clipped at {usual:.3g}", replace(case, clip=usual))]
    if "call optimizer.zero_grad()" in remedy:
        return [Attempt("gradients cleared", replace(case, clear=True))]
    if "let the schedule last" in remedy:
        steps = case.steps
        return [Attempt("schedule as long as the run", replace(case, schedule=lambda step: 1 - step / steps))]
    if "scale the inputs" in remedy:
        return [Attempt("inputs standardised", replace(case, standardised=True))]
    slips = ("make the optimizer from", "leave out the last", "a softmax over one output")
    if any(words in remedy for words in slips):
        return [Attempt("the slip mended", replace(case, **dict(case.mended)))]
    if "train longer" in remedy and "first" in remedy:
        return [Attempt(f"{LONGER} times as long", replace(case, steps=LONGER * case.steps))]
    return list(_of_parts(case, remedy, number))[:TRIES]


def _of_parts(case: Case, remedy: str, number: float | None) -> list[Attempt]:
    """Take the parts of a sentence that names several things, each where it stands."""
    found: list[tuple[int, list[Attempt]]] = []

    def where(words: str, made: list[Attempt]) -> None:
        if words in remedy:
            found.append((remedy.index(words), made))

    several = "LeakyReLU" in remedy  # of which one number is one of them
    where("lower the learning rate", _fields(case, "lr", number, 0.1)[: 1 if several else TRIES])
    where("raise the learning rate", _fields(case, "lr", number, 10.0))
    where("penalty on these outputs", _fields(case, "term", None, 0.1) if case.term else [])
    where("weaken what acts on these outputs", _fields(case, "term", None, 0.1) if case.term else [])
    where("look for a term of the loss", _fields(case, "crush", None, 0.1))
    anew = [Attempt("drawn anew", replace(case, then=(*case.then, drawn_anew)))]
    for words in ("use He (ReLU) or Xavier", "draw the weights at random", "begin with smaller weights"):
        where(words, anew)
    where("other weights", anew)
    where("a normalisation", [Attempt("normalised", replace(case, then=(*case.then, normalised)))])
    where("smaller biases", [Attempt("biases at 0", replace(case, then=(*case.then, without_biases)))])
    where("LeakyReLU", [Attempt("LeakyReLU", replace(case, then=(*case.then, leaky)))])
    return [attempt for _, made in sorted(found, key=lambda one: one[0]) for attempt in made]


def _fields(case: Case, name: str, number: float | None, factor: float) -> list[Attempt]:
    """Set a number of the case to the one that is named, or change it by a factor, again and again."""
    known = float(getattr(case, name))
    values = [number] if number is not None else [known * factor**k for k in range(1, TRIES + 1)]
    return [Attempt(f"{name} {value:.3g}", _with(case, name, value)) for value in values]


def _with(case: Case, name: str, value: Any) -> Case:
    return replace(case, **{name: value})


def usual_norm(record: Path) -> float:
    """Read the median of the gradient's norm, before it was clipped, off a record."""
    with Record(record) as read:
        norms = np.concatenate([block["loss_gradient_norm"] for block in read.blocks(("loss_gradient_norm",))])
    return float(np.median(np.sqrt(np.nansum(norms.astype(np.float64) ** 2, axis=1))))
