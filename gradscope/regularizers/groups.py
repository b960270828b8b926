"""Group lasso, and the parser of penalties."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope import checks
from gradscope.plugins import plugged
from gradscope.regularizers.penalties import L1, L1L2, L2, LInf, Lp, Penalty
from gradscope.types import InputError

#: Which axis of a weight tells the groups apart.
AXES = {"filter": 0, "neuron": 0, "input": 1}


class GroupLasso(Penalty):
    """Ω = Σ over groups of √(size of the group)·‖w of the group‖₂, by its proximal map: whole groups become 0.

    A tensor that lacks the axis, such as a bias, is a group for each entry.

    Args:
        per: ``"filter"`` (the same as ``"neuron"``): the weights into one output channel or neuron are a group (the
            first axis); ``"input"``: those out of one input channel or neuron (the second axis; Scardapane et al.
            2017).
    """

    proximal_step = True

    def __init__(self, per: str = "filter") -> None:
        self.per = checks.one_of(per, AXES, "per")
        self.name = f"group:{per}"

    def value(self, w: Tensor) -> Tensor:
        """Compute Ω(w), a scalar."""
        rows = self._rows(w)
        norms: Tensor = rows.norm(dim=1)
        return math.sqrt(rows.shape[1]) * norms.sum()

    def gradient(self, w: Tensor) -> Tensor:
        """Compute ∂Ω/∂w, 0 in groups that are 0."""
        rows = self._rows(w)
        norms = rows.norm(dim=1, keepdim=True)
        slope = math.sqrt(rows.shape[1]) * rows / torch.where(norms > 0, norms, torch.ones_like(norms))
        return self._back(slope, w)

    def proximal(self, w: Tensor, threshold: float) -> Tensor:
        """Shrink the norm of each group by threshold·√size, to 0 at the least."""
        rows = self._rows(w)
        norms = rows.norm(dim=1, keepdim=True)
        cut = threshold * math.sqrt(rows.shape[1])
        kept = torch.where(norms > cut, 1 - cut / torch.where(norms > 0, norms, torch.ones_like(norms)), 0.0)
        return self._back(rows * kept, w)

    def _rows(self, w: Tensor) -> Tensor:
        """Reshape ``w`` to [groups, size]."""
        axis = AXES[self.per]
        if w.ndim <= max(axis, 1):
            return w.reshape(-1, 1)
        return w.movedim(axis, 0).reshape(w.shape[axis], math.prod(w.shape[:axis] + w.shape[axis + 1 :]))

    def _back(self, rows: Tensor, w: Tensor) -> Tensor:
        axis = AXES[self.per]
        if w.ndim <= max(axis, 1):
            return rows.reshape(w.shape)
        return rows.reshape(w.movedim(axis, 0).shape).movedim(0, axis)

    @property
    def kinds(self) -> frozenset[str]:
        """The kind ``group``, whatever the axis."""
        return frozenset({"group"})

    def __repr__(self) -> str:
        return f"GroupLasso({self.per!r})"


def parse_penalty(text: str) -> Penalty:
    """Parse the name of a penalty, as on the command line and in ``GRADSCOPE_PENALTY``.

    Args:
        text: such as ``l2``, ``l1.5``, ``l1l2:0.5,1``, ``group:filter``, or the name of a plug-in's.

    Returns:
        The penalty.

    Raises:
        InputError: no penalty has this name.

    Examples:
        >>> parse_penalty("l1"), parse_penalty("l3"), parse_penalty("group:filter")
        (L1(), Lp(3), GroupLasso('filter'))
    """
    whole = checks.penalty_word(text)
    if (own := plugged("penalties").get(whole)) is not None:
        return _penalty_of(whole, own)
    word, _, arguments = whole.partition(":")
    if word == "term":
        raise InputError(f"{text} is a term that a script adds to its loss (gradscope.Term), and no penalty by itself")
    if word == "group":
        return GroupLasso(arguments)
    if word == "l1l2":
        return L1L2(*(float(share) for share in arguments.split(","))) if arguments else L1L2()
    simple: dict[str, type[Penalty]] = {"l1": L1, "l2": L2, "linf": LInf}
    return simple[word]() if word in simple else Lp(float(word[1:]))


def _penalty_of(name: str, own: object) -> Penalty:
    """Return the penalty that a plug-in gives under this name, or makes when called."""
    made = own if isinstance(own, Penalty) else own() if callable(own) else own
    if not isinstance(made, Penalty):
        raise InputError(f"the plug-in {name} of gradscope.penalties is a {type(made).__name__}; expected a Penalty")
    return made
