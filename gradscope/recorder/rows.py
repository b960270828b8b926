"""From the device's tables to the variables of a record: plain numpy, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]

#: How far the ratios of the parameters' norms after and before a change may lie apart and still be one factor.
ONE_FACTOR = 0.01


@dataclass(frozen=True)
class PenaltyTerm:
    """How one penalty source reads off the recorded sums.

    ``columns``: the parameters it covers. ``shares``: (a, b) with mean|∂Ω/∂w| = a·mean|w| +
    b·share of non-zeros, or None where it was measured on the device.
    """

    columns: NDArray[np.int64]
    shares: tuple[float, float] | None
    group: int


@dataclass(slots=True)
class HostRow:
    """What the host knows about a row without asking the device.

    ``taken``: the meters that took part, with what is known of their measurement. ``values``: logged numbers;
    ``cells``: the names of logged tensors and their places in the ring. ``rates``: None for those in the ring.
    """

    step: int
    epoch: int
    time: float
    strengths: tuple[float, ...]
    rates: list[float | None]
    taken: dict[int, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    cells: dict[str, tuple[int, int]] = field(default_factory=dict)
    sampled: bool = False
    updates: bool = False
    histograms: bool = False
    skipped: bool = False


def whole_change(before: Floats, after: Floats) -> Floats:
    """‖after‖/‖before‖ of the whole, [N], from norms [N, P]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.nansum(after**2, 1)) / np.sqrt(np.nansum(before**2, 1)))


def factor_of_change(before: Floats, after: Floats) -> Floats:
    """The same; NaN where the tensors changed by different factors.

    Clipping by norm multiplies every gradient by one number; clipping by value does not.
    """
    whole = whole_change(before, after)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(before > 0, after / before, np.nan)
    known = np.isfinite(each)
    low = np.where(known, each, np.inf).min(1)
    high = np.where(known, each, -np.inf).max(1)
    return np.where(np.isfinite(whole) & known.any(1) & (high - low <= ONE_FACTOR * high), whole, np.nan)


def parameter_variables(
    table: NDArray[np.floating[Any]],
    quantities: Sequence[str],
    numel: Floats,
    strengths: Floats,
    terms: Sequence[PenaltyTerm],
    measured: Mapping[int, Floats] | None = None,
) -> Block:
    """The (step, parameter) variables from the table [N, Q, P] and the strengths [N, S].

    ``measured``: Σ|∂Ω/∂w| by term, [N, columns], where it does not follow from the table.
    """
    at = {name: table[:, i].astype(np.float64) for i, name in enumerate(quantities)}
    size = np.maximum(numel, 1.0)
    block: dict[str, NDArray[Any]] = {
        "loss_gradient_mean_abs": at["gradient_l1"] / size,
        "loss_gradient_norm": at["gradient_norm"],
        "weight_mean_abs": at["weight_l1"] / size,
        "weight_norm": at["weight_norm"],
    }
    if "gradient_max" in at:
        block["loss_gradient_max_abs"] = at["gradient_max"]
        block["weight_max_abs"] = at["weight_max"]
        block["weight_gradient_dot"] = at["dot"]
        block["weight_zero_fraction"] = np.where(numel > 0, 1 - at["weight_nonzero"] / size, 0.0)
    with np.errstate(invalid="ignore"):  # a strength of 0 times infinite weights
        penalty = penalty_gradient(at, numel, strengths, terms, measured or {})
    block["penalty_gradient_mean_abs"] = penalty
    loss = block["loss_gradient_mean_abs"]
    with np.errstate(divide="ignore", invalid="ignore"):
        block["proportion"] = loss / (loss + penalty)
        block = {name: values.astype(np.float32) for name, values in block.items()}
    if "gradient_nonfinite" in at:
        block["nonfinite_count"] = np.nan_to_num(at["gradient_nonfinite"]).astype(np.int32)
    return block


def penalty_gradient(
    at: Mapping[str, Floats],
    numel: Floats,
    strengths: Floats,
    terms: Sequence[PenaltyTerm],
    measured: Mapping[int, Floats],
) -> Floats:
    """mean |λ∂Ω/∂w| a parameter, [N, P]. The terms on one parameter add up (all point along sign(w))."""
    size = np.maximum(numel, 1.0)
    total = np.zeros_like(at["weight_l1"])
    for index, term in enumerate(terms):
        columns = term.columns
        if term.shares is None:
            size_of_gradient = measured[index] / size[columns]
        else:
            a, b = term.shares
            size_of_gradient = a * at["weight_l1"][:, columns] / size[columns]
            if b:
                size_of_gradient = size_of_gradient + b * at["weight_nonzero"][:, columns] / size[columns]
        total[:, columns] += strengths[:, index, None] * size_of_gradient
    return total


def group_variables(rows: Sequence[HostRow], terms: Sequence[PenaltyTerm], groups: int) -> Block:
    """The (step, group) variables. A group's strength is that of the first source that covers it."""
    strength = np.zeros((len(rows), groups), dtype=np.float32)
    for index in reversed(range(len(terms))):
        if terms[index].group < groups:
            strength[:, terms[index].group] = [row.strengths[index] for row in rows]
    rates = np.array([row.rates for row in rows], dtype=np.float32).reshape(len(rows), groups)
    return {"strength": strength, "learning_rate": rates}
