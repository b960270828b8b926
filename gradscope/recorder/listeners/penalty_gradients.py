"""Record what penalties do: strengths, sizes of their gradients, what a declared one adds to gradient and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, Floats, HostRow
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.grad_scaling import GradScaling
from gradscope.recorder.listeners.unread import Unread
from gradscope.recorder.memory import unknown
from gradscope.recorder.meter import Meter
from gradscope.recorder.penalty_probe import PenaltyProbe, PenaltyTerm
from gradscope.recorder.row_buffer import RowBuffer


class PenaltyGradients(Listener):
    """Listener that asks the ``probe`` what penalties do to the ``weights``, [P] parameters.

    Its variables come after those of the gradients and of what was logged, which they are made of.
    """

    probe: PenaltyProbe  # set before each layout

    def __init__(
        self, weights: Sequence[Tensor], groups: int, buffer: RowBuffer, scaling: GradScaling, unread: Unread
    ) -> None:
        self._weights, self._groups = weights, groups
        self._buffer, self._scaling, self._unread = buffer, scaling, unread
        self._size = np.maximum(np.array([w.numel() for w in weights], dtype=np.float64), 1.0)

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Tell the meters what a declared penalty adds."""
        for meter in meters:
            meter.inside_loss = None if self.probe.inside_loss is None else self._inside_loss
        self._measured = [i for i, term in enumerate(self.probe.terms) if term.shares is None]

    def _inside_loss(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Compute what a declared penalty adds to each gradient, which carries the factor of a GradScaler."""
        assert self.probe.inside_loss is not None
        extra, scale = self.probe.inside_loss(weights), self._scaling.scale
        return extra if scale is None else [e * scale.to(e.device) for e in extra]

    def fields(self) -> dict[str, Field]:
        """Return the sizes that have to be measured, and the value inside the loss."""
        found = {f"penalty{i}": Field((len(self.probe.terms[i].columns),), "mean") for i in self._measured}
        if self.probe.value_inside_loss is not None:
            found["inside"] = Field((1,), "sum")
        return found

    def row_begins(self, row: HostRow) -> None:
        """Write the strengths, and measure sizes that do not follow from sums."""
        row.strengths = self.probe.strengths()
        if self.probe.value_inside_loss is not None:
            self._buffer.home.view("inside", row.number).copy_(self.probe.value_inside_loss().reshape(1))
        if self.probe.measure is not None:
            for index, sizes in self._sizes().items():
                self._buffer.home.view(f"penalty{index}", row.number).copy_(sizes)

    def _sizes(self) -> dict[int, Tensor]:
        """Compute Σ|∂Ω/∂w| where it has to be measured, by term; NaN where a weight is none that a penalty knows."""
        assert self.probe.measure is not None
        try:
            return self.probe.measure(self._weights)
        except Exception as error:
            self._unread.note("penalty_gradient_mean_abs", error)
            home = self._buffer.home.device
            return {i: unknown((len(self.probe.terms[i].columns),), home) for i in self._measured}

    # -- the variables ----------------------------------------------------------------------------

    def variables(self, rows: FetchedRows) -> Block:
        """Compute strengths, penalty gradients, proportion, and the loss without a declared penalty."""
        terms = self.probe.terms
        strengths = np.array([row.strengths for row in rows.hosts], dtype=np.float64).reshape(len(rows.hosts), -1)
        measured = {i: rows.home[f"penalty{i}"].astype(np.float64) for i in self._measured}
        loss = rows.sums["gradient_l1"] / self._size
        with np.errstate(invalid="ignore"):  # a strength of 0 times infinite weights
            penalty = sizes_of_gradients(rows.sums, self._size, strengths, terms, measured)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {
                "strength": self._strengths(rows.hosts),
                "penalty_gradient_mean_abs": penalty.astype(np.float32),
                "proportion": (loss / (loss + penalty)).astype(np.float32),
            }
        if "inside" in rows.home and "loss" in rows.block and self.probe.logged_inside:
            found["loss"] = rows.block["loss"] - rows.home["inside"][:, 0]
        return found

    def _strengths(self, hosts: Sequence[HostRow]) -> np.ndarray:
        """Return the strength of each parameter group, [N, G]: that of the first source that covers it."""
        terms = self.probe.terms
        strength = np.zeros((len(hosts), self._groups), dtype=np.float32)
        for index in reversed(range(len(terms))):
            if terms[index].group < self._groups:
                strength[:, terms[index].group] = [row.strengths[index] for row in hosts]
        return strength


def sizes_of_gradients(
    sums: Mapping[str, Floats],
    size: Floats,
    strengths: Floats,
    terms: Sequence[PenaltyTerm],
    measured: Mapping[int, Floats],
) -> Floats:
    """Compute mean |λ∂Ω/∂w| a parameter. The terms on one parameter add up (all point along sign(w)).

    Args:
        sums: of the weights, [N, P] by quantity.
        size: entries of each parameter, [P].
        strengths: of each term, [N, S].
        terms: the penalty terms.
        measured: Σ|∂Ω/∂w| by term, [N, columns], where it does not follow from the sums.

    Returns:
        [N, P].
    """
    total = np.zeros_like(sums["weight_l1"])
    for index, term in enumerate(terms):
        columns = term.columns
        if term.shares is None:
            size_of_gradient = measured[index] / size[columns]
        else:
            a, b = term.shares
            size_of_gradient = a * sums["weight_l1"][:, columns] / size[columns]
            if b:
                size_of_gradient = size_of_gradient + b * sums["weight_nonzero"][:, columns] / size[columns]
        total[:, columns] += strengths[:, index, None] * size_of_gradient
    return total
