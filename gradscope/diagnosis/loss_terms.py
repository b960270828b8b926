"""Read a term λΩ(w) of the loss, of which nobody told, off the gradients of two layers.

Where what lies between two layers is homogeneous (ReLU, LeakyReLU, dropout, pooling, nothing), ⟨W, g⟩ + ⟨b, g⟩ of the
first equals ⟨W′, g′⟩ of the second in every step (Euler), and a term adds λ⟨w, ∂Ω/∂w⟩ where it acts. What feeds what
need not be known: of neighbours in the record's order two such sums are taken for equal where they follow each other
from row to row to some millionths of what they move, which nothing else does (note 136).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.run_info import RunInfo

Array = NDArray[np.float64]
Rows = Mapping[str, NDArray[Any]]

#: Rows that are looked at together; of these so many may be off.
ROWS, OFF = 32, 2
#: What may be left of the difference, of what the sums move over the rows. ReLU: 1e-7; SiLU and GELU: 1e-4 and more.
AGREE = 5e-6
#: Times as large as what is left that the difference has to be.
CLEAR = 100.0
#: Difference of two strengths, as a share, that makes them two.
SAME = 0.01
#: Which of W, b and W′ a term acts on.
ON = ((1, 0, 1), (1, 1, 1), (1, 0, 0), (1, 1, 0), (0, 0, 1))
#: Terms, in words.
TERMS = ("λ‖w‖²", "λΣ|w|", "λ‖w‖")
READ = ("weight_gradient_dot", "weight_norm", "weight_mean_abs", "loss_gradient_mean_abs")


@dataclass(frozen=True)
class LossTerm:
    """Term that was read off.

    Attributes:
        term: one of `TERMS`.
        strength: λ.
        parameters: names of some that it acts on.
        share: its gradient over all of the gradient there, by their mean sizes; at most 1.
    """

    term: str
    strength: float
    parameters: tuple[str, ...]
    share: float


class LossTerms:
    """Reader of one run: told all of its rows in order, it looks at the first `ROWS`, and later at fewer and fewer."""

    def __init__(self, info: RunInfo) -> None:
        self._names = info.parameters
        self._numel = np.asarray(info.numel, dtype=np.float64)
        self._first, self._bias, self._second = _pairs(info)
        self._held = {name: np.empty((ROWS, len(info.parameters))) for name in READ}
        self._count, self._next = 0, 0

    def see(self, rows: Rows) -> Iterator[tuple[int, list[LossTerm]]]:
        """Take a block of rows.

        Yields:
            Of each look, the place in the block of the last row that it saw, and what it found.
        """
        n = len(rows["step"])
        at, self._count = self._count, self._count + n
        if not len(self._first) or any(name not in rows for name in READ):
            return
        while self._next < self._count:
            start, stop = max(self._next - at, 0), min(self._next + ROWS - at, n)
            place = at + start - self._next
            for name, held in self._held.items():
                held[place : place + stop - start] = rows[name][start:stop]
            if at + stop < self._next + ROWS:
                return
            self._next += max(ROWS, self._next // 4)
            yield stop - 1, self._found(self._held)

    def columns(self, rows: Rows) -> dict[str, Array]:
        """Compute ``loss_term_0``, … [N, P], the strengths of each of `TERMS` that the looks read off, else NaN."""
        found: dict[str, Array] = {}
        for row, terms in self.see(rows):
            for one in terms:
                name = f"loss_term_{TERMS.index(one.term)}"
                column = found.setdefault(name, np.full((len(rows["step"]), len(self._names)), np.nan))
                column[row, [self._names.index(parameter) for parameter in one.parameters]] = one.strength
        return found

    @np.errstate(invalid="ignore", divide="ignore", over="ignore")  # without a gradient, nothing agrees with anything
    def _found(self, rows: Mapping[str, Array]) -> list[LossTerm]:
        """Find what makes the sums of each two layers differ, where these are equal but for that."""
        dot, norm, mean, gradient = (rows[name] for name in READ)
        first, bias, second = self._first, self._bias, self._second
        without = bias < 0
        moved = np.sort(dot[:, second], axis=0)
        moves = moved[-1 - OFF] - moved[OFF]
        apart = dot[:, first] + np.where(without, 0.0, dot[:, bias]) - dot[:, second]
        middle = np.median(np.abs(apart), axis=0)
        strengths, lefts = [], []
        for size in (2 * norm**2, mean * self._numel, norm):
            parts = size[:, first], np.where(without, np.nan, size[:, bias]), -size[:, second]
            for on in ON:
                acts = np.sum([part for part, there in zip(parts, on, strict=True) if there], axis=0)
                strength = (apart * acts).sum(0) / (acts**2).sum(0)
                left = np.sort(np.abs(apart - strength * acts), axis=0)[-1 - OFF]
                stands = (strength > 0) & (left < AGREE * moves) & (left * CLEAR < middle)
                strengths.append(strength)
                lefts.append(np.where(stands, left, np.inf))
        found = []
        for pair, (strength, left) in enumerate(zip(np.stack(strengths, 1), np.stack(lefts, 1), strict=True)):
            best = int(left.argmin())
            if not np.isfinite(left[best]):
                continue
            alike = (np.arange(len(left)) // len(ON) == best // len(ON)) & (abs(strength / strength[best] - 1) < SAME)
            if alike[left < 2 * left[best]].all():  # else another term would do as well
                three = (first[pair], bias[pair], second[pair])
                places = [int(i) for i, there in zip(three, ON[best % len(ON)], strict=True) if there]
                found.append(self._term(best // len(ON), float(strength[best]), places, norm, mean, gradient))
        return found

    def _term(
        self, kind: int, strength: float, places: list[int], norm: Array, mean: Array, gradient: Array
    ) -> LossTerm:
        numel = self._numel[places]
        of_term = strength * (2 * mean, np.ones_like(mean), mean / np.maximum(norm, 1e-300))[kind][:, places]
        whole = (np.nan_to_num(gradient[:, places]) * numel).sum(1)
        share = float(np.median((of_term * numel).sum(1) / np.maximum(whole, 1e-300)))
        return LossTerm(TERMS[kind], strength, tuple(self._names[i] for i in places), min(share, 1.0))


def _pairs(info: RunInfo) -> tuple[NDArray[np.int64], ...]:
    """List each matrix, its bias (-1 for none) and the next matrix, as they stand in the record."""
    known = len(info.matrices) == len(info.parameters) == len(info.frozen)
    places = np.flatnonzero(info.matrices & ~info.frozen) if known else np.zeros(0, dtype=np.int64)
    column = {name: i for i, name in enumerate(info.parameters) if known and not info.frozen[i]}
    biases = [column.get(info.parameters[i].removesuffix("weight") + "bias", -1) for i in places]
    return places[:-1], np.array(biases[:-1], dtype=np.int64), places[1:]
